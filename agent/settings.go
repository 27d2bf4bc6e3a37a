package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"ecowatt"
	"ecowatt/agent/command"
	"ecowatt/agent/config"
	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/inverter/profile"
	"ecowatt/parameter"
)

// What the installer puts into the gateway's folder: the settings, and a folder
// of profiles, NAME.yaml, of inverters that the program does not know.
const (
	SettingsFile   = "agent.yaml"
	ProfilesFolder = "profiles"
)

// Limits and defaults of the settings.
const (
	maxSettingsSize = 64 << 10

	DefaultSamplingInterval = 5 * time.Second
	DefaultUploadInterval   = 15 * time.Minute
	DefaultFlushInterval    = 10 * time.Second
	DefaultBufferLimit      = 64 // MiB

	maxBufferLimit = 1 << 20 // MiB
	maxWriteBudget = 10_000  // a day
)

// ErrNoSettings says that there is no settings file.
var ErrNoSettings = errors.New("there are no settings")

// Settings is what whoever installs the gateway decides: the file agent.yaml.
// The intervals are what the cloud's configuration starts from.
//
//	setting            meaning
//	cloud_url          where the cloud is, instead of what the enrolment file said
//	inverters          list of:
//	  name             as ecowatt.ParseName accepts it
//	  connect          where it is, as modbus.ParseEndpoint reads it: modbus-tcp://HOST:PORT,
//	                   rtu-tcp://HOST:PORT, rtu:///dev/DEVICE?baud=9600&parity=none&stop=1, http://HOST:PORT
//	  key_file         file with the key that an http address asks for, which only its owner may
//	                   read; beside the settings unless it begins with /
//	  unit             unit id, 1 … 247, with modbus-tcp also 0 and 248 … 255; the profile's if not given
//	  profile          name of a profile; one in the folder profiles goes before the program's own.
//	                   sunspec: the inverter tells it itself
//	  points           names of what is read; all of the profile if not given
//	sampling_interval  s between two samples, 1 … 3600; 5 if not given
//	upload_interval    s between two exchanges, 1 … 86400; 900 if not given
//	flush_interval     longest time in s that a sample waits for its fsync, 0 … 600; 10 if not given
//	buffer_limit_mib   largest size of the buffer on disk; 64 if not given
//	log_level          debug, info (if not given), warn or error
//	compression        none, fast or best (if not given)
//	payload_cap        largest telemetry message in bytes, 0 (none, if not given) or 256 … 65536
//	aggregation_window s that are sent as one mean, minimum and maximum, 0 (none, if not given) … 3600
//	night_mode         how an inverter is polled that sleeps or is away: slow (if not given) or full
//	update_window      when firmware is taken: always (if not given), sun_down (while no inverter
//	                   answers), or hours in UTC, such as 22:00-04:30
//	download_budget    bytes of firmware that are fetched between two exchanges, 0 (no bound, if not
//	                   given) or 16384 … 1073741824
//	fixed              the names of parameters that the cloud may not change, see docs/configuration.md
//	hold               longest time in s for which a request is held open between two exchanges, so
//	                   that a command comes at once, 0 … 20; 0, never, if not given
//	allow_control      whether the inverters may be written; false if not given
//	write_budget       how often a day a register that wears out may be written, 1 … 10000; 100 if not given
//	hardware           what the gateway is: firmware is taken that names exactly this
type Settings struct {
	CloudURL         string // where the cloud is, instead of what the enrolment file said; usually empty
	Inverters        []InverterSettings
	SamplingInterval time.Duration // between two samples of an inverter; 1 s … 1 h
	UploadInterval   time.Duration // between two exchanges; 1 s … 24 h
	FlushInterval    time.Duration // longest time a sample may wait for its fsync; 0 … 10 min
	BufferLimit      int64         // largest size of the buffer, bytes
	LogLevel         slog.Level

	Compression       string        // "none", "fast" or "best"
	PayloadCap        int64         // bytes; 0 for none
	AggregationWindow time.Duration // 0 for none
	NightMode         string        // "slow" or "full"
	UpdateWindow      string        // "always", "sun_down" or hours, see parameter.ParseHours
	DownloadBudget    int64         // bytes; 0 for no bound
	Fixed             []string      // names of parameters that the cloud may not change

	AllowControl bool          // whether the inverter may be written at all
	Hold         time.Duration // longest time that a request is held open between two exchanges; 0: never
	WriteBudget  int           // writes per day of a register that wears out
	Hardware     string        // what the gateway is, for the inventory and for firmware
}

// settingsFile is the file as it stands.
type settingsFile struct {
	CloudURL         string         `yaml:"cloud_url"`
	Inverters        []inverterFile `yaml:"inverters"`
	SamplingInterval *float64       `yaml:"sampling_interval"`
	UploadInterval   *float64       `yaml:"upload_interval"`
	FlushInterval    *float64       `yaml:"flush_interval"`
	BufferLimit      *int64         `yaml:"buffer_limit_mib"`
	LogLevel         string         `yaml:"log_level"`

	Compression       any      `yaml:"compression"`
	PayloadCap        any      `yaml:"payload_cap"`
	AggregationWindow any      `yaml:"aggregation_window"`
	NightMode         any      `yaml:"night_mode"`
	UpdateWindow      any      `yaml:"update_window"`
	DownloadBudget    any      `yaml:"download_budget"`
	Fixed             []string `yaml:"fixed"`

	AllowControl bool     `yaml:"allow_control"`
	Hold         *float64 `yaml:"hold"`
	WriteBudget  *int     `yaml:"write_budget"`
	Hardware     string   `yaml:"hardware"`
}

// leastSettings is a settings file with all that must be there.
const leastSettings = `inverters: [{name: inv1, connect: "modbus-tcp://192.168.1.20:502", profile: ecowatt-sim}]`

// LoadSettings reads the settings file name, with the profiles of the folder
// profiles beside the program's own. Every error names the file and what in it is
// wrong.
func LoadSettings(name, profiles string) (Settings, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, fmt.Errorf("%w: write %s, at least: %s", ErrNoSettings, filepath.Clean(name), leastSettings)
	}
	if err != nil {
		return Settings{}, fmt.Errorf("reading the settings: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSettingsSize+1))
	if err != nil {
		return Settings{}, fmt.Errorf("reading the settings: %w", err)
	}
	s, err := parseSettings(data, profile.Set{Dir: profiles})
	if err != nil {
		return Settings{}, fmt.Errorf("%s: %w", filepath.Clean(name), err)
	}
	if err := readKeys(s.Inverters, filepath.Dir(name)); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", filepath.Clean(name), err)
	}
	return s, nil
}

// ParseSettings reads settings that use only profiles of the program. It does not
// read the files of keys. Unknown
// names are refused, and nothing is guessed: the error says which setting is wrong
// and what it may be.
func ParseSettings(data []byte) (Settings, error) { return parseSettings(data, profile.Set{}) }

func parseSettings(data []byte, profiles profile.Set) (Settings, error) {
	if len(data) > maxSettingsSize {
		return Settings{}, fmt.Errorf("larger than %d bytes", maxSettingsSize)
	}
	var file settingsFile
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return Settings{}, oneLine(err)
	}
	var rest any
	if err := d.Decode(&rest); !errors.Is(err, io.EOF) {
		return Settings{}, errors.New("something follows the settings after a line with ---: remove it")
	}
	return file.check(profiles)
}

// oneLine makes one line of the several that the YAML reader may report, and
// says settings where it speaks of Go.
func oneLine(err error) error {
	problems := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		problems = wrong.Errors
	}
	for i, text := range problems {
		if field, _, unknown := strings.Cut(text, " not found in type "); unknown {
			text = strings.Replace(field, "field ", "there is no setting ", 1)
		}
		problems[i] = strings.Join(strings.Fields(text), " ")
	}
	return errors.New(strings.Join(problems, "; "))
}

func (file settingsFile) check(profiles profile.Set) (Settings, error) {
	s := Settings{AllowControl: file.AllowControl, WriteBudget: command.DefaultBudget, Hardware: file.Hardware}
	var err error
	if file.CloudURL != "" {
		if s.CloudURL, err = identity.ParseCloudURL(file.CloudURL); err != nil {
			return Settings{}, fmt.Errorf("cloud_url: %w", err)
		}
	}
	if s.SamplingInterval, err = seconds("sampling_interval", file.SamplingInterval, DefaultSamplingInterval, time.Second, time.Hour); err != nil {
		return Settings{}, err
	}
	if s.UploadInterval, err = seconds("upload_interval", file.UploadInterval, DefaultUploadInterval, time.Second, 24*time.Hour); err != nil {
		return Settings{}, err
	}
	if s.FlushInterval, err = seconds("flush_interval", file.FlushInterval, DefaultFlushInterval, 0, 10*time.Minute); err != nil {
		return Settings{}, err
	}
	if s.Hold, err = seconds("hold", file.Hold, 0, 0, uplink.MaxHold); err != nil {
		return Settings{}, err
	}
	if file.WriteBudget != nil {
		s.WriteBudget = *file.WriteBudget
	}
	if s.WriteBudget < 1 || s.WriteBudget > maxWriteBudget {
		return Settings{}, fmt.Errorf("write_budget: %d is not within 1 and %d", s.WriteBudget, maxWriteBudget)
	}
	limit := int64(DefaultBufferLimit)
	if file.BufferLimit != nil {
		limit = *file.BufferLimit
	}
	if limit < 1 || limit > maxBufferLimit {
		return Settings{}, fmt.Errorf("buffer_limit_mib: %d is not within 1 and %d", limit, maxBufferLimit)
	}
	s.BufferLimit = limit << 20
	if s.LogLevel, err = parseLevel(file.LogLevel); err != nil {
		return Settings{}, fmt.Errorf("log_level: %w", err)
	}
	if err := file.parameters(&s); err != nil {
		return Settings{}, err
	}
	if len(s.Hardware) > ecowatt.MaxNameLength || strings.ContainsFunc(s.Hardware, unicode.IsControl) {
		return Settings{}, fmt.Errorf("hardware: longer than %d bytes, or with control characters", ecowatt.MaxNameLength)
	}
	if s.Inverters, err = file.inverters(profiles); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// parameters reads the settings that are written as the cloud writes them.
func (file settingsFile) parameters(s *Settings) error {
	values := parameter.Values{}
	for name, given := range map[string]any{
		parameter.Compression: file.Compression, parameter.PayloadCap: file.PayloadCap,
		parameter.AggregationWindow: file.AggregationWindow, parameter.NightMode: file.NightMode,
		parameter.UpdateWindow: file.UpdateWindow, parameter.DownloadBudget: file.DownloadBudget,
	} {
		spec, _ := parameter.Find(name)
		if given == nil {
			given = spec.Default
		}
		v, problem := spec.Check(given)
		if problem != nil {
			return problem
		}
		values[name] = v
	}
	for _, name := range file.Fixed {
		if _, ok := parameter.Find(name); !ok {
			return fmt.Errorf("fixed: there is no parameter %.40q", name)
		}
	}
	s.Compression, _ = values[parameter.Compression].(string)
	s.PayloadCap, _ = values[parameter.PayloadCap].(int64)
	s.AggregationWindow = config.Seconds(values[parameter.AggregationWindow])
	s.NightMode, _ = values[parameter.NightMode].(string)
	s.UpdateWindow, _ = values[parameter.UpdateWindow].(string)
	s.DownloadBudget, _ = values[parameter.DownloadBudget].(int64)
	s.Fixed = file.Fixed
	return nil
}

func seconds(name string, given *float64, byDefault, least, most time.Duration) (time.Duration, error) {
	if given == nil {
		return byDefault, nil
	}
	if !(*given >= least.Seconds() && *given <= most.Seconds()) { // also NaN
		return 0, fmt.Errorf("%s: %v s is not within %v and %v s", name, *given, least.Seconds(), most.Seconds())
	}
	return time.Duration(*given * float64(time.Second)).Round(time.Millisecond), nil
}

func parseLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%.40q is none of debug, info, warn and error", s)
}
