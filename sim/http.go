package sim

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"ecowatt/inverter/modbus"
	"ecowatt/sim/fault"
)

// The paths that the HTTP interface has besides those of modbus.HTTPClient.
const (
	ErrorFlagPath = "/api/user/error-flag/add" // of the original simulator: a fault at the next request
	FaultsPath    = "/api/sim/faults"          // POST orders one by a line of a script, DELETE ends all
	InvertersPath = "/api/sim/inverters"       // GET tells what the inverters do

	maxBody = 4096 // bytes
)

// http is the HTTP interface, that of the original simulator: frames that
// server answers, and faults that are ordered. Each request needs the key.
func (s *Simulator) http(server *modbus.Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+modbus.HTTPReadPath, s.frames(server, modbus.ReadHolding, modbus.ReadInput))
	mux.Handle("POST "+modbus.HTTPWritePath, s.frames(server, modbus.WriteSingle, modbus.WriteMultiple))
	mux.HandleFunc("POST "+ErrorFlagPath, ordered(s, parseErrorFlag))
	mux.HandleFunc("POST "+FaultsPath, ordered(s, fault.ParseRule))
	mux.HandleFunc("DELETE "+FaultsPath, func(w http.ResponseWriter, _ *http.Request) {
		s.Behave()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET "+InvertersPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Inverters()) })
	return s.guarded(mux)
}

// guarded lets only those in who have the key.
func (s *Simulator) guarded(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(s.options.HTTPKey))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			refuse(w, http.StatusUnauthorized, errors.New("the Authorization is not the simulator's key"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// frames answers frames of some functions. A request that is not answered has
// an empty frame for an answer, so that nobody has to wait.
func (s *Simulator) frames(server *modbus.Server, functions ...modbus.Function) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked modbus.HTTPFrame
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			err = json.Unmarshal(body, &asked)
		}
		var frame []byte
		if err == nil {
			frame, err = asked.Bytes()
		}
		if err == nil && len(frame) > 1 && !contains(functions, frame[1]) {
			err = fmt.Errorf("function %02x does not belong to %s", frame[1], r.URL.Path)
		}
		var answer []byte
		if err == nil {
			answer, err = server.AnswerRTU(r.Context(), frame)
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		reply(w, http.StatusOK, modbus.NewHTTPFrame(answer))
	})
}

func contains(functions []modbus.Function, f byte) bool {
	for _, x := range functions {
		if byte(x) == f {
			return true
		}
	}
	return false
}

// ordered orders the fault that the body of a request says.
func ordered(s *Simulator, parse func([]byte) (fault.Rule, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var rule fault.Rule
		if err == nil {
			rule, err = parse(body)
		}
		if err == nil {
			err = s.Misbehave(rule)
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// errorFlag orders a fault for the next request, as the original simulator
// has it.
type errorFlag struct {
	ErrorType     string `json:"errorType"`
	ExceptionCode byte   `json:"exceptionCode"` // of EXCEPTION
	DelayMs       int    `json:"delayMs"`       // of DELAY
}

func parseErrorFlag(text []byte) (fault.Rule, error) {
	var f errorFlag
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return fault.Rule{}, fmt.Errorf("no error flag: %w", err)
	}
	r := fault.Rule{Probability: 1, Count: 1}
	switch f.ErrorType {
	case "EXCEPTION":
		r.Kind, r.Code = fault.Exception, f.ExceptionCode
	case "CRC_ERROR":
		r.Kind = fault.CRC
	case "CORRUPT":
		r.Kind = fault.Corrupt
	case "PACKET_DROP":
		r.Kind = fault.Drop
	case "DELAY":
		r.Kind, r.For = fault.Late, time.Duration(f.DelayMs)*time.Millisecond
	default:
		return fault.Rule{}, fmt.Errorf("errorType: %.40q is none of EXCEPTION, CRC_ERROR, CORRUPT, PACKET_DROP and DELAY", f.ErrorType)
	}
	return r, r.Check()
}

func refuse(w http.ResponseWriter, status int, err error) {
	reply(w, status, struct {
		Error string `json:"error"`
	}{err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // to somebody who has gone it cannot be told
}
