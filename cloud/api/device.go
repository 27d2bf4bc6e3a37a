package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/registry"
)

// Device is a device as the API shows it. It holds no key.
type Device struct {
	ID        string          `json:"id" doc:"Its name in the fleet"`
	Group     string          `json:"group" doc:"Empty when in none"`
	Notes     string          `json:"notes"`
	TimeZone  string          `json:"time_zone" doc:"IANA name; its days begin at midnight there"`
	Disabled  bool            `json:"disabled" doc:"A disabled device is refused until it is enabled again"`
	CreatedAt time.Time       `json:"created_at"`
	LastSeen  *time.Time      `json:"last_seen" doc:"When its last exchange was accepted; null when never"`
	Epoch     uint32          `json:"epoch" doc:"Epoch of its active key"`
	Key       DeviceKey       `json:"key" doc:"Its keys, without them"`
	Cloned    *time.Time      `json:"clone_suspected_at,omitempty" doc:"When it last seemed that two devices have its key (CLONE_SUSPECT); absent when never"`
	Agent     *DeviceAgent    `json:"agent,omitempty" doc:"What the agent reported of itself; absent before its first report"`
	Firmware  *DeviceFirmware `json:"firmware,omitempty" doc:"What the agent reported of its running image; absent before its first report"`
	Update    *OpenUpdate     `json:"update,omitempty" doc:"That a rollout wants of it now; absent for none"`
	Config    DeviceConfig    `json:"config" doc:"How far its configuration is"`
	Inverters []Inverter      `json:"inverters" nullable:"false" doc:"As last reported"`

	PowerLimits []PowerLimit `json:"power_limits,omitempty" doc:"That the device says it keeps, by inverter, the most restrictive first; absent for none, and in lists"`
}

// OpenUpdate is a release on its way to a device.
type OpenUpdate struct {
	Rollout string    `json:"rollout" doc:"Its id"`
	State   string    `json:"rollout_state" enum:"running,paused,stopped,aborted,done"`
	Version string    `json:"version" doc:"Of the release"`
	Release uint64    `json:"release" doc:"Its number"`
	Phase   string    `json:"phase" doc:"How far the device is with it"`
	Since   time.Time `json:"since"`
}

// DeviceConfig is how far the configuration of a device is.
type DeviceConfig struct {
	Revision uint64 `json:"revision" doc:"Of what is desired; 0 where nothing ever was"`
	Pending  bool   `json:"pending" doc:"The device has not answered it yet"`
	Drift    int    `json:"drift" doc:"How many parameters the device has answered for and does not have as desired"`
}

// DeviceAgent is what an agent reports of itself.
type DeviceAgent struct {
	Version        string    `json:"version"`
	Hardware       string    `json:"hardware"`
	ControlAllowed bool      `json:"control_allowed" doc:"Whether the installer allows writing to inverters"`
	ReportedAt     time.Time `json:"reported_at"`
}

// DeviceFirmware is what an agent reports of its running image.
type DeviceFirmware struct {
	Release uint64 `json:"release"`
	State   string `json:"state" doc:"confirmed, trial or rolled_back"`
	Version string `json:"version"`
}

// Inverter is one inverter of a device.
type Inverter struct {
	Name           string          `json:"name"`
	Profile        string          `json:"profile"`
	ProfileVersion string          `json:"profile_version"`
	Serial         string          `json:"serial"`
	Model          string          `json:"model"`
	Points         []ecowatt.Point `json:"points" nullable:"false"`
}

func showDevice(d registry.Device, now time.Time) Device {
	out := Device{
		ID: string(d.ID), Group: d.Group, Notes: d.Notes, TimeZone: d.TimeZone, Disabled: d.Disabled,
		CreatedAt: d.CreatedAt, Epoch: uint32(d.Epoch), Key: showKey(d, now), Config: DeviceConfig(d.Config), Inverters: []Inverter{},
	}
	if !d.LastSeen.IsZero() {
		out.LastSeen = &d.LastSeen
	}
	if !d.Cloned.IsZero() {
		out.Cloned = &d.Cloned
	}
	if v := d.Inventory; !v.ReportedAt.IsZero() {
		out.Agent = &DeviceAgent{Version: v.AgentVersion, Hardware: v.Hardware, ControlAllowed: v.ControlAllowed, ReportedAt: v.ReportedAt}
	}
	if d.Firmware.State != "" {
		out.Firmware = &DeviceFirmware{Release: d.Firmware.Release, State: d.Firmware.State, Version: d.Firmware.Version}
	}
	if d.Update.Rollout != "" {
		u := OpenUpdate(d.Update)
		out.Update = &u
	}
	for _, v := range d.Inventory.Inverters {
		points := v.Points
		if points == nil {
			points = []ecowatt.Point{}
		}
		out.Inverters = append(out.Inverters, Inverter{
			Name: v.Name, Profile: v.Profile, ProfileVersion: v.ProfileVersion, Serial: v.Serial, Model: v.Model, Points: points,
		})
	}
	return out
}

// Pages of devices.
const (
	defaultPage = 100
	maxPage     = 1000
)

func (s *server) registerDevices() {
	register(s, access.AddDevice, huma.Operation{
		OperationID: "add-device", Method: http.MethodPost, Path: "/devices", DefaultStatus: http.StatusCreated,
		Summary: "Add a device",
		Description: "Makes a device with a fresh key. The answer holds its enrolment file, which holds the key: " +
			"it is shown this once and can never be had again. Keep it in a file that only its owner may read.",
		Errors: []int{http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, s.addDevice)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "list-devices", Method: http.MethodGet, Path: "/devices",
		Summary:     "List devices",
		Description: "By id, a page at a time: give the answer's next as after to go on. There is no next on the last page.",
		Errors:      []int{http.StatusUnprocessableEntity},
	}, s.listDevices)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-device", Method: http.MethodGet, Path: "/devices/{id}",
		Summary: "Show a device",
		Errors:  []int{http.StatusNotFound},
	}, s.getDevice)
	register(s, access.ChangeDevice, huma.Operation{
		OperationID: "change-device", Method: http.MethodPatch, Path: "/devices/{id}",
		Summary:     "Change a device",
		Description: "Changes the fields that are given and leaves the others. Disabling a device ends its sessions.",
		Errors:      []int{http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, s.changeDevice)
}

// NewDevice asks for a device.
type NewDevice struct {
	ID       string `json:"id" doc:"1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit" example:"roof-1"`
	Group    string `json:"group,omitempty" doc:"Of the same form; empty for none"`
	Notes    string `json:"notes,omitempty" doc:"At most 1024 bytes"`
	TimeZone string `json:"time_zone,omitempty" doc:"IANA name, as in Europe/Berlin; UTC by default"`
	CloudURL string `json:"cloud_url,omitempty" doc:"Where the device will find the cloud; by default the public URL the cloud was started with, else the one of this request"`
}

type addDeviceInput struct {
	Body NewDevice

	origin string // scheme and host of the request
}

// Resolve notes by which URL the cloud was reached.
func (in *addDeviceInput) Resolve(ctx huma.Context) []error {
	scheme := "http"
	if ctx.TLS() != nil {
		scheme = "https"
	}
	in.origin = scheme + "://" + ctx.Host()
	return nil
}

// AddedDevice is a new device with its enrolment file.
type AddedDevice struct {
	Device    Device        `json:"device"`
	Enrolment enrolmentFile `json:"enrolment" doc:"The enrolment file; it holds the device's key"`
}

// enrolmentFile is the JSON of an enrolment file, as registry encodes it.
type enrolmentFile []byte

// MarshalJSON returns the file.
func (f enrolmentFile) MarshalJSON() ([]byte, error) { return f, nil }

// Schema describes the file (docs/protocol.md section 11).
func (enrolmentFile) Schema(huma.Registry) *huma.Schema {
	text := &huma.Schema{Type: huma.TypeString}
	return &huma.Schema{
		Type: huma.TypeObject,
		Properties: map[string]*huma.Schema{
			"device_id": text, "cloud_url": text, "epoch": {Type: huma.TypeInteger}, "psk_id": text, "key": text, "firmware_root": text,
		},
		Required: []string{"device_id", "cloud_url", "epoch", "psk_id", "key", "firmware_root"},
	}
}

type addDeviceOutput struct {
	Location string `header:"Location"`
	Body     AddedDevice
}

func (s *server) addDevice(ctx context.Context, in *addDeviceInput) (*addDeviceOutput, error) {
	cloudURL := in.Body.CloudURL
	if cloudURL == "" {
		cloudURL = s.PublicURL
	}
	if cloudURL == "" {
		cloudURL = in.origin
	}
	device, enrolment, err := s.Registry.Add(ctx, registry.Request{
		ID: in.Body.ID, Group: in.Body.Group, Notes: in.Body.Notes, TimeZone: in.Body.TimeZone, CloudURL: cloudURL, By: caller(ctx).Name,
		FirmwareRoot: s.Trust.Roots().Newest(),
	}, s.Now())
	if err != nil {
		return nil, deviceProblem(ecowatt.DeviceID(in.Body.ID), err)
	}
	file, err := enrolment.Encode()
	if err != nil {
		return nil, err
	}
	return &addDeviceOutput{
		Location: prefix + "/devices/" + string(device.ID),
		Body:     AddedDevice{Device: showDevice(device, s.Now()), Enrolment: file},
	}, nil
}

type listDevicesInput struct {
	Group string `query:"group" doc:"Only the devices of this group"`
	After string `query:"after" doc:"Only devices whose id comes after this one"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
}

// DeviceList is a page of devices.
type DeviceList struct {
	Devices []Device `json:"devices" nullable:"false"`
	Next    string   `json:"next,omitempty" doc:"Give it as after to go on; absent on the last page"`
}

type deviceListOutput struct{ Body DeviceList }

func (s *server) listDevices(ctx context.Context, in *listDevicesInput) (*deviceListOutput, error) {
	if in.Group != "" {
		if _, err := ecowatt.ParseName("group", in.Group); err != nil {
			return nil, invalid("query.group", err.Error())
		}
	}
	limit := in.Limit
	if limit == 0 {
		limit = defaultPage
	}
	// One more than asked for tells whether there is a next page.
	found, err := s.Fleet.Devices(ctx, registry.Filter{Group: in.Group, After: ecowatt.DeviceID(in.After), Limit: min(limit, maxPage) + 1})
	if err != nil {
		return nil, err
	}
	list := DeviceList{Devices: []Device{}}
	if len(found) > limit {
		found = found[:limit]
		list.Next = string(found[limit-1].ID)
	}
	for _, d := range found {
		list.Devices = append(list.Devices, showDevice(d, s.Now()))
	}
	return &deviceListOutput{Body: list}, nil
}

// DeviceInput is the device that a path names.
type DeviceInput struct {
	ID string `path:"id" doc:"The device"`
}

// device is the device that the path names. A name that none can have is of
// none that is there.
func (in DeviceInput) device() (ecowatt.DeviceID, error) {
	id, err := ecowatt.ParseDeviceID(in.ID)
	if err != nil {
		return "", problemf(http.StatusNotFound, "there is no device %.80q", in.ID)
	}
	return id, nil
}

type deviceOutput struct{ Body Device }

func (s *server) getDevice(ctx context.Context, in *DeviceInput) (*deviceOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	d, err := s.Fleet.Device(ctx, id)
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	out := showDevice(d, s.Now())
	if out.PowerLimits, err = s.powerLimits(ctx, id); err != nil {
		return nil, err
	}
	return &deviceOutput{Body: out}, nil
}

// DeviceChange is what people may change of a device.
type DeviceChange struct {
	Group    *string `json:"group,omitempty" doc:"Empty for none"`
	Notes    *string `json:"notes,omitempty"`
	TimeZone *string `json:"time_zone,omitempty" doc:"IANA name, as in Europe/Berlin"`
	Disabled *bool   `json:"disabled,omitempty"`
}

type changeDeviceInput struct {
	DeviceInput
	Body DeviceChange
}

func (s *server) changeDevice(ctx context.Context, in *changeDeviceInput) (*deviceOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	change := registry.Change(in.Body)
	if change == (registry.Change{}) {
		return nil, invalid("body", "nothing to change: give group, notes, time_zone or disabled")
	}
	if err := s.Fleet.UpdateDevice(ctx, id, change, operator(ctx), s.Now()); err != nil {
		return nil, deviceProblem(id, err)
	}
	return s.getDevice(ctx, &in.DeviceInput)
}
