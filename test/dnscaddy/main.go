package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what every Caddy has
	"github.com/libdns/libdns"
	"github.com/miekg/dns"

	_ "github.com/aie-sandbox/caddy-sandbox" // the plugin
)

// zone is what the server knows; it is the domain of the tests.
const zone = "sandbox.localhost."

func main() {
	caddy.RegisterModule(new(provider))
	caddycmd.Main()
}

// provider keeps the records that Caddy makes in the DNS challenge.
type provider struct {
	Address string `json:"address"`
}

// CaddyModule returns the Caddy module information.
func (*provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "dns.providers.own", New: func() caddy.Module { return new(provider) }}
}

// UnmarshalCaddyfile takes the address.
func (p *provider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&p.Address) {
		return d.ArgErr()
	}
	return nil
}

// The one server of this process, and its TXT records by their full names.
var (
	listening sync.Once
	listenErr error

	mu    sync.Mutex // guards texts
	texts = map[string][]string{}
)

// Provision starts the server the first time; it goes on until the process ends.
func (p *provider) Provision(caddy.Context) error {
	listening.Do(func() {
		var conn net.PacketConn
		if conn, listenErr = net.ListenPacket("udp", p.Address); listenErr != nil {
			return
		}
		server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(answer)}
		go func() { log.Fatal(server.ActivateAndServe()) }()
	})
	return listenErr
}

// AppendRecords implements libdns.RecordAppender.
func (p *provider) AppendRecords(_ context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	mu.Lock()
	defer mu.Unlock()
	for _, record := range records {
		rr := record.RR()
		if rr.Type != "TXT" {
			return nil, fmt.Errorf("a record of type %s", rr.Type)
		}
		name := strings.ToLower(libdns.AbsoluteName(rr.Name, zone))
		texts[name] = append(texts[name], rr.Data)
	}
	return records, nil
}

// DeleteRecords implements libdns.RecordDeleter. All records of a name go: there
// is one challenge at a time.
func (p *provider) DeleteRecords(_ context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	mu.Lock()
	defer mu.Unlock()
	for _, record := range records {
		delete(texts, strings.ToLower(libdns.AbsoluteName(record.RR().Name, zone)))
	}
	return records, nil
}

// answer answers a question about the zone.
func answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	reply.Authoritative = true
	question := request.Question[0]
	name := strings.ToLower(question.Name)
	soa := &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET},
		Ns:  "ns." + zone, Mbox: "admin." + zone, Serial: 1, Refresh: 60, Retry: 60, Expire: 60,
	}
	mu.Lock()
	found := texts[name]
	mu.Unlock()
	switch {
	case question.Qtype == dns.TypeSOA && name == zone:
		reply.Answer = append(reply.Answer, soa)
	case question.Qtype == dns.TypeTXT && len(found) > 0:
		for _, text := range found {
			reply.Answer = append(reply.Answer, &dns.TXT{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET},
				Txt: []string{text},
			})
		}
	default:
		reply.Rcode = dns.RcodeNameError
		reply.Ns = append(reply.Ns, soa)
	}
	if err := w.WriteMsg(reply); err != nil {
		log.Print(err)
	}
}
