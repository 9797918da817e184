// A vCenter simulator for the tests of the vsphere driver: govmomi's simulator, extended where it differs from vCenter.
//
// Machines, snapshots, sessions and the property collector are the simulator's own. Added here: creating, reverting to
// and deleting snapshots are tasks that take time, report progress, can be canceled and are among the recent tasks of
// their machine; the state of a snapshot says whether it has memory, and a revert turns the machine on or off
// accordingly; long answers are paged. Calls and tasks can be made to fail by rules.
//
// `vcsim FILE` writes its certificate to FILE and prints its address. It then reads orders from standard input, one JSON
// object per line, and answers each with one line of JSON. It ends when standard input closes.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	user     = "gateway@vsphere.local"
	password = "sesame"
)

// rule changes the result of calls of one method. It applies once, or Times times.
type rule struct {
	On    string // a method, such as CreateSnapshot_Task
	How   string // see ServeHTTP and perform
	Fault string // a type of fault, such as NoPermission
	Old   string // a text of the response, whose first occurrence is replaced by New
	New   string
	Code  int
	Times int
}

// front is the HTTP handler. It applies the rules and passes other requests to the simulator's own handler.
type front struct {
	inner    http.Handler
	sessions *simulator.SessionManager

	mu       sync.Mutex
	rules    []*rule
	calls    []string
	cookies  map[string]bool
	held     chan struct{} // closed by the order "release"; held calls and tasks then continue
	canceled map[types.ManagedObjectReference]bool
}

func (f *front) rule(method string, hows ...string) *rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range f.rules {
		for _, how := range hows {
			if r.On == method && r.How == how {
				if r.Times--; r.Times <= 0 {
					f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
				}
				return r
			}
		}
	}
	return nil
}

func (f *front) gate() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	method, wrong := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil || wrong != nil {
		http.Error(w, "not SOAP", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.calls = append(f.calls, method.Name)
	if req, ok := method.Body.(*types.CancelTask); ok {
		f.canceled[req.This] = true
	}
	f.mu.Unlock()
	if found := f.rule(method.Name, "drop", "lose", "hang", "garble", "code", "fault", "alter"); found != nil {
		switch found.How {
		case "lose": // the call is executed, and its response is lost
			f.answer(&discard{http.Header{}}, r, method, body)
			fallthrough
		case "drop":
			panic(http.ErrAbortHandler)
		case "hang":
			<-f.gate()
			panic(http.ErrAbortHandler)
		case "garble":
			fmt.Fprint(w, "<html>Service is starting")
		case "code":
			w.WriteHeader(found.Code)
		case "fault":
			fail(w, found.Fault)
		case "alter":
			usual := httptest.NewRecorder()
			f.answer(usual, r, method, body)
			if !strings.Contains(usual.Body.String(), found.Old) {
				http.Error(w, "the response has no such text", http.StatusNotFound)
				return
			}
			w.WriteHeader(usual.Code)
			io.WriteString(w, strings.Replace(usual.Body.String(), found.Old, found.New, 1))
		}
		return
	}
	f.answer(w, r, method, body)
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header            { return d.header }
func (d *discard) Write(data []byte) (int, error) { return len(data), nil }
func (d *discard) WriteHeader(int)                {}

func (f *front) answer(w http.ResponseWriter, r *http.Request, method *simulator.Method, body []byte) {
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil && f.active(cookie.Value) {
		switch req := method.Body.(type) {
		case *types.CreateSnapshot_Task:
			f.perform(w, method, req.This, "VirtualMachine.createSnapshot", func() types.AnyType { return create(req) })
			return
		case *types.RevertToSnapshot_Task:
			if snapshot, ok := simulator.Map.Get(req.This).(*simulator.VirtualMachineSnapshot); ok {
				f.perform(w, method, snapshot.Vm, "vm.Snapshot.revert", func() types.AnyType { return revert(snapshot, req) })
				return
			}
		case *types.RemoveSnapshot_Task:
			if snapshot, ok := simulator.Map.Get(req.This).(*simulator.VirtualMachineSnapshot); ok {
				f.perform(w, method, snapshot.Vm, "vm.Snapshot.remove", func() types.AnyType { return remove(snapshot, req) })
				return
			}
		case *types.RenameSnapshot:
			if snapshot, ok := simulator.Map.Get(req.This).(*simulator.VirtualMachineSnapshot); ok {
				rename(w, snapshot, req, bytes.Contains(body, []byte("<description")))
				return
			}
		case *types.CancelTask:
			reply(w, "CancelTask", "")
			return
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.inner.ServeHTTP(w, r)
}

func (f *front) active(cookie string) bool {
	f.mu.Lock()
	f.cookies[cookie] = true
	f.mu.Unlock()
	res := f.sessions.SessionIsActive(background(), &types.SessionIsActive{SessionID: cookie, UserName: user})
	return res.(*methods.SessionIsActiveBody).Res.Returnval
}

func background() *simulator.Context {
	return &simulator.Context{Context: context.Background(), Map: simulator.Map, Session: &simulator.Session{}}
}

// perform starts a task that executes work, and responds with the task.
func (f *front) perform(
	w http.ResponseWriter, method *simulator.Method, of types.ManagedObjectReference, id string, work func() types.AnyType,
) {
	vm, ok := simulator.Map.Get(of).(*simulator.VirtualMachine)
	if !ok {
		fail(w, "ManagedObjectNotFound")
		return
	}
	var task *simulator.Task
	task = simulator.CreateTask(of, method.Name, func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if f.rule(method.Name, "hold") != nil {
			update(task.Self, "info.progress", int32(42))
			<-f.gate()
		}
		f.mu.Lock()
		canceled := f.canceled[task.Self]
		f.mu.Unlock()
		if canceled {
			return nil, new(types.RequestCanceled)
		}
		if found := f.rule(method.Name, "fail"); found != nil {
			return nil, named(found.Fault)
		}
		return work(), nil
	})
	task.Info.DescriptionId = id
	task.Info.Cancelable = true
	update(of, "recentTask", append(vm.RecentTask, task.Self))
	if f.rule(method.Name, "queue") != nil {
		go func() { <-f.gate(); task.Run() }()
	} else {
		go task.Run()
	}
	reply(w, method.Name, fmt.Sprintf(`<returnval type="Task">%s</returnval>`, task.Self.Value))
}

func update(ref types.ManagedObjectReference, path string, value types.AnyType) {
	simulator.Map.WithLock(ref, func() {
		simulator.Map.Update(simulator.Map.Get(ref), []types.PropertyChange{{Name: path, Val: value}})
	})
}

func create(req *types.CreateSnapshot_Task) (made types.AnyType) {
	vm := simulator.Map.Get(req.This).(*simulator.VirtualMachine)
	simulator.Map.WithLock(vm.Self, func() {
		res := vm.CreateSnapshotTask(req).(*methods.CreateSnapshot_TaskBody).Res.Returnval
		made = simulator.Map.Get(res).(*simulator.Task).Info.Result
		node := find(vm.Snapshot.RootSnapshotList, made.(types.ManagedObjectReference))
		if node.State == types.VirtualMachinePowerStatePoweredOn && !req.Memory {
			node.State = types.VirtualMachinePowerStatePoweredOff
		}
		for i := range vm.LayoutEx.Snapshot {
			if layout := &vm.LayoutEx.Snapshot[i]; layout.Key == node.Snapshot {
				if req.Memory {
					layout.MemoryKey = layout.DataKey // as in vSphere versions that store both in one file
				}
				for j := range vm.LayoutEx.File {
					if file := &vm.LayoutEx.File[j]; file.Key == layout.DataKey {
						file.Size = 4096
					}
				}
			}
		}
	})
	return made
}

func revert(snapshot *simulator.VirtualMachineSnapshot, req *types.RevertToSnapshot_Task) types.AnyType {
	snapshot.RevertToSnapshotTask(req)
	vm := simulator.Map.Get(snapshot.Vm).(*simulator.VirtualMachine)
	update(vm.Self, "runtime.powerState", find(vm.Snapshot.RootSnapshotList, snapshot.Self).State)
	return nil
}

func remove(snapshot *simulator.VirtualMachineSnapshot, req *types.RemoveSnapshot_Task) types.AnyType {
	vm := simulator.Map.Get(snapshot.Vm).(*simulator.VirtualMachine)
	simulator.Map.WithLock(vm.Self, func() { // the simulator panics if a root snapshot that is current is deleted
		for _, root := range vm.Snapshot.RootSnapshotList {
			if current := vm.Snapshot.CurrentSnapshot; current != nil && *current == req.This && root.Snapshot == req.This {
				vm.Snapshot.CurrentSnapshot = nil
			}
		}
	})
	snapshot.RemoveSnapshotTask(background(), req)
	return nil
}

// rename executes RenameSnapshot, which the simulator lacks. An omitted name or description is left as it is.
func rename(w http.ResponseWriter, snapshot *simulator.VirtualMachineSnapshot, req *types.RenameSnapshot, described bool) {
	if len(req.Name) > 80 {
		fail(w, "InvalidName")
		return
	}
	vm := simulator.Map.Get(snapshot.Vm).(*simulator.VirtualMachine)
	simulator.Map.WithLock(vm.Self, func() {
		node := find(vm.Snapshot.RootSnapshotList, snapshot.Self)
		if req.Name != "" {
			node.Name = req.Name
		}
		if described {
			node.Description = req.Description
		}
	})
	update(vm.Self, "snapshot", vm.Snapshot)
	reply(w, "RenameSnapshot", "")
}

func find(tree []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference) *types.VirtualMachineSnapshotTree {
	for i := range tree {
		if tree[i].Snapshot == ref {
			return &tree[i]
		}
		if found := find(tree[i].ChildSnapshotList, ref); found != nil {
			return found
		}
	}
	return nil
}

func named(fault string) types.BaseMethodFault {
	kind, ok := types.TypeFunc()(fault)
	if !ok {
		log.Fatalf("no fault is called %s", fault)
	}
	made := reflect.New(kind).Interface().(types.BaseMethodFault)
	some := types.ManagedObjectReference{Type: "Task", Value: "task-0"}
	switch fault := made.(type) { // fields that are required in these faults
	case *types.TaskInProgress:
		fault.Task = some
	case *types.ManagedObjectNotFound:
		fault.Obj = some
	case *types.NoPermission:
		fault.Object, fault.PrivilegeId = some, "VirtualMachine.State"
	case *types.InvalidPowerState:
		fault.RequestedState, fault.ExistingState = "poweredOn", "poweredOff"
	}
	return made
}

const envelope = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

func reply(w http.ResponseWriter, method, value string) {
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<%[1]sResponse xmlns="urn:vim25">%[2]s</%[1]sResponse>`, method, value))
}

func fail(w http.ResponseWriter, fault string) {
	named(fault)
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<soapenv:Fault><faultcode>ServerFaultCode</faultcode>`+
		`<faultstring>this is a %[1]s</faultstring>`+
		`<detail><%[1]sFault xmlns="urn:vim25" xsi:type="%[1]s"></%[1]sFault></detail></soapenv:Fault>`, fault))
}

// pager is the property collector with paging: pages have the requested length, at most `longest`.
type pager struct {
	simulator.PropertyCollector
}

var (
	longest = int32(1000)
	pages   sync.Map // the remaining objects, by token
)

func (p *pager) page(objects []types.ObjectContent, length int32) *types.RetrieveResult {
	if length > longest || length == 0 {
		length = longest
	}
	if int32(len(objects)) <= length {
		return &types.RetrieveResult{Objects: objects}
	}
	token := fmt.Sprintf("page-%d", time.Now().UnixNano())
	pages.Store(token, objects[length:])
	return &types.RetrieveResult{Token: token, Objects: objects[:length]}
}

func (p *pager) RetrievePropertiesEx(ctx *simulator.Context, r *types.RetrievePropertiesEx) soap.HasFault {
	body := p.PropertyCollector.RetrievePropertiesEx(ctx, r)
	if res := body.(*methods.RetrievePropertiesExBody).Res; res != nil {
		res.Returnval = p.page(res.Returnval.Objects, r.Options.MaxObjects)
	}
	return body
}

func (p *pager) ContinueRetrievePropertiesEx(r *types.ContinueRetrievePropertiesEx) soap.HasFault {
	left, ok := pages.LoadAndDelete(r.Token)
	if !ok {
		return &methods.ContinueRetrievePropertiesExBody{Fault_: simulator.Fault("", new(types.InvalidProperty))}
	}
	return &methods.ContinueRetrievePropertiesExBody{Res: &types.ContinueRetrievePropertiesExResponse{
		Returnval: *p.page(left.([]types.ObjectContent), 0),
	}}
}

// order is a line of standard input: Do names the action; the embedded rule is used by the action "rule".
type order struct {
	rule
	Do      string
	Machine string // its name
	Path    string
	Value   string
	Length  int32
}

func (f *front) obey(o *order) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch o.Do {
	case "rule":
		r := o.rule
		f.rules = append(f.rules, &r)
	case "release":
		close(f.held)
		f.held = make(chan struct{})
	case "calls": // since the last order "calls"
		calls := f.calls
		f.calls = nil
		return calls, nil
	case "expire":
		for cookie := range f.cookies {
			f.sessions.TerminateSession(background(), &types.TerminateSession{SessionId: []string{cookie}})
		}
	case "forget": // deletes all tasks, as a vCenter does some minutes after their end
		for _, vm := range simulator.Map.All("VirtualMachine") {
			machine := vm.(*simulator.VirtualMachine)
			for _, task := range machine.RecentTask {
				simulator.Map.Remove(task)
			}
			update(machine.Self, "recentTask", []types.ManagedObjectReference{})
		}
	case "pages":
		longest = o.Length
	case "set":
		for _, vm := range simulator.Map.All("VirtualMachine") {
			if vm.Entity().Name == o.Machine {
				update(vm.Reference(), o.Path, o.Value)
				return nil, nil
			}
		}
		return nil, fmt.Errorf("no machine is called %s", o.Machine)
	default:
		return nil, fmt.Errorf("unknown order %s", o.Do)
	}
	return nil, nil
}

// populate makes the machines: `on`, `off`, `suspended`, and a template.
func populate() {
	names := []string{"on", "off", "suspended", "template"}
	born := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	machines := simulator.Map.All("VirtualMachine")
	sort.Slice(machines, func(i, j int) bool { return machines[i].Reference().Value < machines[j].Reference().Value })
	for i, entity := range machines {
		vm := entity.(*simulator.VirtualMachine)
		power := types.VirtualMachinePowerStatePoweredOff
		switch name := names[i]; name {
		case "on":
			power = types.VirtualMachinePowerStatePoweredOn
		case "suspended":
			power = types.VirtualMachinePowerStateSuspended
		case "template":
			vm.Config.Template, vm.Summary.Config.Template = true, true
		}
		vm.Config.CreateDate = &born
		vm.Config.Annotation, vm.Summary.Config.Annotation = "this is "+names[i], "this is "+names[i]
		vm.Name, vm.Config.Name, vm.Summary.Config.Name = names[i], names[i], names[i]
		vm.Runtime.PowerState, vm.Summary.Runtime.PowerState = power, power
	}
}

func certificate(file string) tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err == nil {
		err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	log.SetOutput(io.Discard)
	model := simulator.VPX()
	model.Host, model.ClusterHost, model.Portgroup, model.Machine = 0, 1, 0, 4
	defer model.Remove()
	if err := model.Create(); err != nil {
		panic(err)
	}
	populate()
	collector := &pager{}
	collector.Self = model.ServiceContent.PropertyCollector
	simulator.Map.Put(collector)
	model.Service.Listen = &url.URL{User: url.UserPassword(user, password)}
	model.Service.RegisterSDK(simulator.Map)
	f := &front{
		inner:    model.Service.ServeMux,
		sessions: simulator.Map.SessionManager(),
		cookies:  map[string]bool{},
		held:     make(chan struct{}),
		canceled: map[types.ManagedObjectReference]bool{},
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(os.Args[1])}})
	if err != nil {
		panic(err)
	}
	go func() { _ = (&http.Server{Handler: f, ErrorLog: log.Default()}).Serve(listener) }()
	answers := json.NewEncoder(os.Stdout)
	_ = answers.Encode("https://" + listener.Addr().String())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		o := new(order)
		answer, err := any(nil), json.Unmarshal(lines.Bytes(), o)
		if err == nil {
			answer, err = f.obey(o)
		}
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		_ = answers.Encode(answer)
	}
}
