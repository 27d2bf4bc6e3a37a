package main

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud"
	"ecowatt/cloud/gateway"
)

func (a *app) newServeCommand() *cobra.Command {
	var o cloud.Options
	var level, format, samples, minutes string
	var proxies []string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the cloud",
		Long: `Serve the cloud: devices and operators on one address, everything it keeps in one
data folder. The first start makes the folder, the database, the key ring and a
token for the administrator (the file 'token').

The log goes to standard error. Interrupted, it finishes what it has begun.`,
		Example: "  ecowatt serve --data /var/lib/ecowatt --listen :8080",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Slot == 0 { // which the cloud would take for its default
				return usagef("--slot: 0s is not within 1s and 24h")
			}
			if o.HandshakeRate == 0 {
				return usagef("--handshake-rate: 0 is not within 1 and 1000000")
			}
			var err error
			if o.Keep.Samples, err = parseKeep("--keep-samples", samples); err != nil {
				return err
			}
			if o.Keep.Minutes, err = parseKeep("--keep-minutes", minutes); err != nil {
				return err
			}
			if o.TrustedProxies, err = parseProxies(proxies); err != nil {
				return err
			}
			if o.Logger, err = newLogger(a.stderr, level, format); err != nil {
				return err
			}
			err = cloud.Run(cmd.Context(), o)
			if option, ok := errors.AsType[*cloud.OptionError](err); ok {
				return usagef("%w", option)
			}
			return err
		},
	}
	c.Flags().StringVar(&o.Data, "data", "ecowatt-data", "folder of everything the cloud keeps")
	c.Flags().StringVar(&o.Database, "db", "", "the database, sqlite:FILE (default ecowatt.db in the data folder)")
	c.Flags().StringVar(&o.Listen, "listen", ":8080", "address to listen on; port 0 takes a free one")
	c.Flags().StringVar(&o.PublicURL, "public-url", "", "where devices find the cloud, for enrolment files (default the URL of each request)")
	c.Flags().DurationVar(&o.Slot, "slot", gateway.DefaultSlot, "time between the exchanges of a device")
	c.Flags().DurationVar(&o.Hold, "hold", gateway.DefaultHold, "for how long an answer may wait for something to say, so that commands arrive at once; 0 for never")
	c.Flags().IntVar(&o.HandshakeRate, "handshake-rate", gateway.DefaultHandshakeRate, "handshakes a second that each address may begin")
	c.Flags().StringVar(&samples, "keep-samples", "90d", "for how long samples are kept as they came; 0 for ever")
	c.Flags().StringVar(&minutes, "keep-minutes", "730d", "for how long what they were in each minute is kept; 0 for ever")
	c.Flags().StringArrayVar(&proxies, "trusted-proxy", nil, "address or network of a proxy whose X-Forwarded-For is believed; may be given again")
	c.Flags().StringVar(&level, "log-level", "info", "what to log: debug, info, warn, error")
	c.Flags().StringVar(&format, "log-format", "text", "how to log: text, json")
	return c
}

// parseKeep reads how long something is kept; 0 is for ever.
func parseKeep(flag, text string) (time.Duration, error) {
	if text == "0" {
		return 0, nil
	}
	return parseSpan(flag, text)
}

// parseProxies reads addresses and networks.
func parseProxies(texts []string) ([]netip.Prefix, error) {
	var proxies []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if a, addr := netip.ParseAddr(text); addr == nil && a.Zone() == "" {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, usagef("--trusted-proxy: %q is neither an address nor a network like 10.0.0.0/8", text)
		}
		proxies = append(proxies, p)
	}
	return proxies, nil
}

// newLogger is the logger of a program that runs for long.
func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	chosen, ok := levels[level]
	if !ok {
		return nil, usagef("--log-level: %q is not debug, info, warn or error", level)
	}
	o.Level = chosen
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usagef("--log-format: %q is not text or json", format)
}
