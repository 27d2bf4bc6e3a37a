package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ecowatt"
)

func (a *app) newRootCommand() *cobra.Command {
	help := a.newHelpCommand()
	root := group("ecowatt", "Operate fleets of solar-inverter gateways",
		help,
		a.newVersionCommand(),
		a.newCompletionCommand(),
		a.newDemoCommand(),
		a.newServeCommand(),
		a.newBackupCommand(),
		a.newRestoreCommand(),
		a.newKeyringCommand(),
		a.newDeviceCommand(),
		a.newConfigCommand(),
		a.newCommandCommand(),
		a.newTelemetryCommand(),
		a.newFirmwareCommand(),
		a.newRolloutCommand(),
		a.newLogCommand(),
		a.newSimCommand(),
		a.newProbeCommand(),
		a.newProfileCommand(),
		a.newBenchCommand(),
	)
	root.Long = `ecowatt operates fleets of solar-inverter gateways: it serves the cloud that
they report to, simulates inverters, and is the operator's command line.

ECOWATT_URL names the cloud (http://127.0.0.1:8080 when unset). The operator's
token is read from ECOWATT_TOKEN, or from the file that ECOWATT_TOKEN_FILE or
--token-file names.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 not found.`
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(help)
	root.SetUsageTemplate(usageTemplate)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	a.watch(root)
	return root
}

const usageTemplate = `Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{- if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}{{end}}{{end}}
{{- end}}
{{- if .HasExample}}

Example:
{{.Example}}
{{- end}}
{{- if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{- end}}
{{- if .HasAvailableSubCommands}}

More about a command: {{.CommandPath}} COMMAND --help
{{- end}}
`

// watch notes when a command's own code is reached.
func (a *app) watch(cmd *cobra.Command) {
	if inner := cmd.RunE; inner != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.running = true
			return inner(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		a.watch(sub)
	}
}

func (a *app) newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Example: "  ecowatt help device add",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic := cmd.Root()
			for _, name := range args {
				i := slices.IndexFunc(topic.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
				if i < 0 {
					return unknownCommand(topic, name)
				}
				topic = topic.Commands()[i]
			}
			topic.InitDefaultHelpFlag()
			return topic.Help()
		},
	}
}

func (a *app) newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  ecowatt version",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, "ecowatt", ecowatt.Version)
			return err
		},
	}
}

func (a *app) newCompletionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion SHELL",
		Short:     "Print a script that makes a shell complete ecowatt's commands",
		Long:      "Print a script that makes a shell complete ecowatt's commands. SHELL is bash, zsh,\nfish or powershell.",
		Example:   "  source <(ecowatt completion bash)",
		Args:      arguments("SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
			return usagef("no completion for the shell %q; choose from: %s", args[0], strings.Join(shells, ", "))
		},
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: noArguments, SuggestionsMinimumDistance: 2}
	g.AddCommand(commands...)
	g.RunE = func(*cobra.Command, []string) error {
		names := make([]string, 0, len(commands))
		for _, c := range commands {
			names = append(names, c.Name())
		}
		return usagef("%s what? Choose from: %s", use, strings.Join(names, ", "))
	}
	return g
}

// noArguments is for commands without arguments, groups among them: there an
// argument is a command that does not exist.
func noArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case !cmd.HasSubCommands():
		return usagef("unexpected argument %q", args[0])
	}
	return unknownCommand(cmd, args[0])
}

func unknownCommand(parent *cobra.Command, name string) error {
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		return usagef("unknown command %q; do you mean %q?", name, near[0])
	}
	return usagef("unknown command %q", name)
}

// arguments is for commands that take exactly the arguments named.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s is missing", names[len(args)])
		case len(args) > len(names):
			return usagef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}
