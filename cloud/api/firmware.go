package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ecowatt/cloud/access"
	"ecowatt/cloud/rollout"
)

// Trust keeps the roots of trust for firmware.
type Trust interface {
	// Roots returns those there are.
	Roots() rollout.Roots
	// AddRoot adds the first root, or one that follows the newest; one that is there
	// changes nothing. The error is a *rollout.RefusedError where it is refused.
	AddRoot(ctx context.Context, signed []byte, by string) (added bool, err error)
}

// Releases is the part of the store that knows releases.
type Releases interface {
	// Release returns a release, or rollout.ErrNoRelease.
	Release(ctx context.Context, id rollout.Hash) (rollout.Release, error)
	// Releases returns all releases, the highest number first.
	Releases(ctx context.Context) ([]rollout.Release, error)
}

// Depot keeps releases with their files.
type Depot interface {
	// Push takes a bundle to its end. One that is there changes nothing, but for files
	// that were missing. The error is a *rollout.RefusedError where it is refused, and
	// ErrReceiving while another one is received.
	Push(ctx context.Context, bundle io.Reader, by string) (r rollout.Release, added bool, err error)
	// Remove takes a release away, or returns rollout.ErrNoRelease or a
	// *rollout.InUseError.
	Remove(ctx context.Context, id rollout.Hash, by string) error
	// Lacking is how many of its files are missing.
	Lacking(r rollout.Release) int
}

// ErrReceiving says that another bundle is being received.
var ErrReceiving = errors.New("another bundle is being received; come again when it is here")

// FirmwareRoot is the newest root of trust for firmware.
type FirmwareRoot struct {
	Version uint64 `json:"version" doc:"0 where there is none"`
	First   uint64 `json:"first" doc:"Of the first that the cloud was given"`
	Added   bool   `json:"added" doc:"It was not there before this request"`
}

// Release is a release as the API shows it.
type Release struct {
	ID            string           `json:"id" doc:"SHA-256 of the manifest, 64 hexadecimal digits"`
	Version       string           `json:"version" doc:"For people"`
	Release       uint64           `json:"release" doc:"Its number: greater than those of all before"`
	Security      uint64           `json:"security" doc:"No device goes back behind it"`
	Hardware      []string         `json:"hardware" nullable:"false" doc:"Board revisions that it is for"`
	Size          uint64           `json:"size" doc:"Of the image, bytes"`
	Image         string           `json:"image" doc:"SHA-256 of the image"`
	Payloads      []ReleasePayload `json:"payloads" nullable:"false" doc:"Ways to the image"`
	MinFrom       uint64           `json:"min_from" doc:"Least release that can be updated to this one"`
	DowngradeFrom []uint64         `json:"downgrade_from" nullable:"false" doc:"Later releases that may go back to this one"`
	Created       *time.Time       `json:"created" doc:"By who built it; null where that is not said"`
	Expires       *time.Time       `json:"expires" doc:"It is not installed later; null for never"`
	Missing       int              `json:"missing" doc:"Files that the cloud does not have: push the bundle again"`
	AddedAt       time.Time        `json:"added_at"`
	AddedBy       string           `json:"added_by"`
}

// ReleasePayload is one way to an image.
type ReleasePayload struct {
	Kind string `json:"kind" enum:"full,patch,diff"`
	Size uint64 `json:"size" doc:"Bytes that are fetched"`
	Base string `json:"base" doc:"SHA-256 of the image that it starts from; empty for none"`
}

// ReleaseList is what releases there are.
type ReleaseList struct {
	Root     uint64    `json:"root" doc:"Version of the newest root of trust; 0 for none"`
	Releases []Release `json:"releases" nullable:"false" doc:"The highest number first"`
}

// PushedRelease is a release that was pushed.
type PushedRelease struct {
	Release Release `json:"release"`
	Added   bool    `json:"added" doc:"It was not there before"`
}

func (s *server) showRelease(r rollout.Release) Release {
	out := Release{
		ID: r.ID.String(), Version: r.Version, Release: r.Number, Security: r.Security, Hardware: r.Hardware, Size: r.Size, Image: r.Image.String(),
		Payloads: []ReleasePayload{}, MinFrom: r.MinFrom, DowngradeFrom: append([]uint64{}, r.DowngradeFrom...), Created: known(r.Created),
		Expires: known(r.Expires), Missing: s.Depot.Lacking(r), AddedAt: r.AddedAt, AddedBy: r.AddedBy,
	}
	for _, p := range r.Payloads {
		out.Payloads = append(out.Payloads, ReleasePayload(p))
	}
	return out
}

// bundleType is the media type of a bundle, which is a tar.
const bundleType = "application/x-tar"

// pushInput is a bundle that is read as it comes.
type pushInput struct{ bundle io.Reader }

// Resolve finds the bundle.
func (in *pushInput) Resolve(ctx huma.Context) []error {
	_, w := humago.Unwrap(ctx)
	in.bundle = &patientReader{r: ctx.BodyReader(), control: http.NewResponseController(w)}
	return nil
}

// patientReader lets a request take its time as long as it moves, and the answer to
// it begin after that.
type patientReader struct {
	r       io.Reader
	control *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	// A connection without deadlines needs none moved.
	_ = p.control.SetReadDeadline(time.Now().Add(stallTime))
	_ = p.control.SetWriteDeadline(time.Now().Add(2 * stallTime))
	return p.r.Read(b)
}

type (
	releaseInput struct {
		Hash string `path:"hash" doc:"The id of the release"`
	}
	pushOutput struct {
		Status   int
		Location string `header:"Location"`
		Body     PushedRelease
	}
	releaseOutput     struct{ Body Release }
	releaseListOutput struct{ Body ReleaseList }

	firmwareRootInput struct {
		RawBody []byte `contentType:"application/cbor"`
	}
	firmwareRootOutput struct{ Body FirmwareRoot }
)

func (s *server) registerFirmware() {
	register(s, access.TrustRoot, huma.Operation{
		OperationID: "put-firmware-root", Method: http.MethodPut, Path: "/firmware/root",
		Summary: "Add a root of trust",
		Description: "The body is a signed root of trust (docs/formats/firmware.md): the first one, or one that follows the newest. New devices get the " +
			"newest with their enrolment; the others are told of it with the next release. One that is there already changes nothing.",
		Errors: []int{http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *firmwareRootInput) (*firmwareRootOutput, error) {
		added, err := s.Trust.AddRoot(ctx, in.RawBody, caller(ctx).Name)
		if err != nil {
			return nil, err
		}
		roots := s.Trust.Roots()
		return &firmwareRootOutput{Body: FirmwareRoot{Version: roots.Version(), First: roots.First(), Added: added}}, nil
	})
	register(s, access.KeepReleases, huma.Operation{
		OperationID: "push-release", Method: http.MethodPost, Path: "/firmware", DefaultStatus: http.StatusCreated,
		Summary: "Add a release",
		Description: "The body is a bundle (docs/formats/firmware.md). Its signatures are verified against the newest root of trust before anything of " +
			"its files is read. What is refused leaves nothing behind. To push a release again adds files that were missing, and is answered with 200.",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{bundleType: {}}},
		Errors:      []int{http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity},
	}, s.pushRelease)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "list-releases", Method: http.MethodGet, Path: "/firmware",
		Summary: "List releases",
	}, s.listReleases)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-release", Method: http.MethodGet, Path: "/firmware/{hash}",
		Summary: "Show a release",
		Errors:  []int{http.StatusNotFound},
	}, s.getRelease)
	register(s, access.KeepReleases, huma.Operation{
		OperationID: "remove-release", Method: http.MethodDelete, Path: "/firmware/{hash}",
		Summary:     "Remove a release",
		Description: "With its files. Refused while a rollout needs it. Devices that run it go on.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, s.removeRelease)
}

func (s *server) pushRelease(ctx context.Context, in *pushInput) (*pushOutput, error) {
	r, added, err := s.Depot.Push(ctx, in.bundle, caller(ctx).Name)
	if errors.Is(err, ErrReceiving) {
		return nil, problemf(http.StatusServiceUnavailable, "%v", ErrReceiving)
	}
	if err != nil {
		return nil, err
	}
	out := &pushOutput{Status: http.StatusOK, Location: prefix + "/firmware/" + r.ID.String()}
	if added {
		out.Status = http.StatusCreated
	} else if r, err = s.Releases.Release(ctx, r.ID); err != nil {
		return nil, err
	}
	out.Body = PushedRelease{Release: s.showRelease(r), Added: added}
	return out, nil
}

func (s *server) listReleases(ctx context.Context, _ *struct{}) (*releaseListOutput, error) {
	found, err := s.Releases.Releases(ctx)
	if err != nil {
		return nil, err
	}
	list := ReleaseList{Root: s.Trust.Roots().Version(), Releases: []Release{}}
	for _, r := range found {
		list.Releases = append(list.Releases, s.showRelease(r))
	}
	return &releaseListOutput{Body: list}, nil
}

func (s *server) getRelease(ctx context.Context, in *releaseInput) (*releaseOutput, error) {
	id, err := in.release()
	if err != nil {
		return nil, err
	}
	r, err := s.Releases.Release(ctx, id)
	if err != nil {
		return nil, releaseProblem(id, err)
	}
	return &releaseOutput{Body: s.showRelease(r)}, nil
}

func (s *server) removeRelease(ctx context.Context, in *releaseInput) (*struct{}, error) {
	id, err := in.release()
	if err != nil {
		return nil, err
	}
	if err := s.Depot.Remove(ctx, id, caller(ctx).Name); err != nil {
		return nil, releaseProblem(id, err)
	}
	return nil, nil //nolint:nilnil // there is nothing to say
}

// release is the release that the path names.
func (in releaseInput) release() (rollout.Hash, error) {
	id, err := rollout.ParseHash(in.Hash)
	if err != nil {
		return id, problemf(http.StatusNotFound, "there is no release %.80q", in.Hash)
	}
	return id, nil
}

// releaseProblem says of an error which release it is about.
func releaseProblem(id rollout.Hash, err error) error {
	if errors.Is(err, rollout.ErrNoRelease) {
		return problemf(http.StatusNotFound, "there is no release %v", id)
	}
	if used, ok := errors.AsType[*rollout.InUseError](err); ok {
		return problemf(http.StatusConflict, "release %v is not removed: %v", id, used)
	}
	return err
}

// firmwareProblem is the problem of a release, or a root, that is refused; nil for
// other errors.
func firmwareProblem(err error) *huma.ErrorModel {
	refused, ok := errors.AsType[*rollout.RefusedError](err)
	if !ok {
		return nil
	}
	status := http.StatusUnprocessableEntity
	switch refused.Code {
	case rollout.CodeNoRoot, rollout.CodeRoot:
		status = http.StatusConflict
	case rollout.CodeTooLarge:
		status = http.StatusRequestEntityTooLarge
	case rollout.CodeSignature, rollout.CodeChunk, rollout.CodeFormat, rollout.CodeKey:
	}
	p := problemf(status, "%s", refused.Problem)
	p.Errors = []*huma.ErrorDetail{{Message: refused.Problem, Value: string(refused.Code)}}
	return p
}
