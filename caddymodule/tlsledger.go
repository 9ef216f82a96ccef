package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// tlsLedgerFile is the ledger's file in the state directory. It is not a part
// of the state file: a lost one is rebuilt from containers, which know nothing
// of certificates, and an order should not wait for thousands of records.
const tlsLedgerFile = "tls-budget.json"

// What the ledger remembers, whatever the budget is now: a reload may bring a
// wider one.
const (
	longestWindow = 7 * 24 * time.Hour
	mostIssuances = 10_000
)

// maxRefused bounds the memory for hosts that were refused.
const maxRefused = 10_000

// tlsLedger has the certificates that were lately made on demand, by any
// configuration of one state directory. Safe for concurrent use.
//
// Its clock is the wall's when the file is read, and from then on runs evenly:
// setting the wall clock neither ends a window nor makes it longer. Entries
// that the file has from the future count as made when it was read. A wall
// clock that is far ahead at a start ends all windows early; it cannot be told
// from a server that was off for as long.
type tlsLedger struct {
	path    string
	writing sync.Mutex // one write of the file at a time

	mu      sync.Mutex      // guards the following; never held across I/O
	opened  time.Time       // when the file was read; zero: not yet
	issued  []issuance      // by time
	refused map[string]bool // hosts that came when the budget was spent; emptied when it is not
	told    [notices]time.Time
}

// issuance is one certificate, made or being made.
type issuance struct {
	Host string    `json:"host"`
	At   time.Time `json:"at"`
}

// notice is what the log is told of once in a window.
type notice int

const (
	nearlySpent notice = iota
	spent
	notices // how many there are
)

// spentError is why a certificate is not made.
type spentError struct {
	budget *tlsBudget
	until  time.Time
}

func (e *spentError) Error() string {
	return fmt.Sprintf("tls_budget %s is spent until %s", e.budget, e.until.UTC().Format(time.RFC3339))
}

func newTLSLedger(dir string) *tlsLedger {
	return &tlsLedger{path: filepath.Join(dir, tlsLedgerFile), refused: map[string]bool{}}
}

// open reads the file; call it once, when the state directory is locked. A file
// that makes no sense is set aside and the count begins anew: that risks a few
// certificates too many, and a server that does not start would be worse.
func (l *tlsLedger) open(log *zap.Logger) error {
	data, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the certificates made on demand: %w", err)
	}
	now := time.Now()
	issued, changed, err := parseIssuances(data, now)
	if err != nil {
		aside, asideErr := instance.SetAside(l.path, "corrupt")
		if asideErr != nil {
			return fmt.Errorf("setting %s aside, which cannot be used (%w): %w", l.path, err, asideErr)
		}
		log.Error("the count of certificates made on demand cannot be read: it begins anew",
			zap.String("kept", aside), zap.Error(err))
	}
	l.mu.Lock()
	l.opened, l.issued = now, issued
	l.mu.Unlock()
	if !changed {
		return nil
	}
	log.Warn("the count of certificates made on demand has some from the future: the clock was or is wrong; they count from now on")
	return l.write() // or they would be from the future at the next start as well
}

// parseIssuances reads the file's bytes, of which there may be none. changed
// reports whether entries from after now were moved there.
func parseIssuances(data []byte, now time.Time) (issued []issuance, changed bool, err error) {
	if len(data) == 0 {
		return nil, false, nil
	}
	var file struct {
		Version      int        `json:"version"`
		Certificates []issuance `json:"certificates"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, false, err
	}
	if file.Version != 1 {
		return nil, false, fmt.Errorf("its version is %d, not 1", file.Version)
	}
	issued = file.Certificates
	for i := range issued {
		if issued[i].At.After(now) {
			issued[i].At, changed = now.Round(0).UTC(), true
		}
	}
	slices.SortStableFunc(issued, func(a, b issuance) int { return a.At.Compare(b.At) })
	return issued, changed, nil
}

func encodeIssuances(issued []issuance) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`{"version":1,"certificates":[`)
	for i, one := range issued {
		line, err := json.Marshal(one)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		b.Write(line)
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), nil
}

// take counts a certificate for host against budget. When it returns, that is
// on disk; an order that a crash cuts short stays counted. The error is a
// *spentError if there is no room. used is what is then used of the budget.
func (l *tlsLedger) take(host string, budget *tlsBudget) (used int, err error) {
	entry, used, err := l.add(host, budget)
	if err != nil {
		return used, err
	}
	if err := l.write(); err != nil {
		l.remove(func(one issuance) bool { return one == entry })
		return used, fmt.Errorf("counting a certificate: %w", err)
	}
	return used, nil
}

func (l *tlsLedger) add(host string, budget *tlsBudget) (issuance, int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened.IsZero() {
		return issuance{}, 0, errors.New("the sandbox app is starting")
	}
	now := l.nowLocked()
	l.forgetLocked(now)
	used, until := l.usedLocked(budget, now)
	if used >= budget.limit {
		if len(l.refused) < maxRefused {
			l.refused[host] = true
		}
		return issuance{}, used, &spentError{budget, until}
	}
	entry := issuance{host, now}
	l.issued = append(l.issued, entry)
	return entry, used + 1, nil
}

// giveBack takes the latest certificate for host off the count: its order
// failed.
func (l *tlsLedger) giveBack(host string) error {
	if !l.remove(func(one issuance) bool { return one.Host == host }) {
		return nil
	}
	if err := l.write(); err != nil {
		return fmt.Errorf("giving a certificate back that was not made: %w", err)
	}
	return nil
}

// remove removes the last entry that is meant, and reports whether there was
// one.
func (l *tlsLedger) remove(meant func(issuance) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, one := range slices.Backward(l.issued) {
		if meant(one) {
			l.issued = slices.Delete(l.issued, i, i+1)
			return true
		}
	}
	return false
}

// refuses returns why there is no use in asking for a certificate for host: it
// was refused, and since then none has become free. It looks in memory only,
// and knows nothing of hosts that have a certificate.
func (l *tlsLedger) refuses(host string, budget *tlsBudget) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.refused[host] {
		return nil
	}
	used, until := l.usedLocked(budget, l.nowLocked())
	if used < budget.limit {
		clear(l.refused)
		return nil
	}
	return &spentError{budget, until}
}

// firstTime reports whether the log is to be told of what: once in a window of
// budget.
func (l *tlsLedger) firstTime(what notice, budget *tlsBudget) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.nowLocked()
	if last := l.told[what]; !last.IsZero() && now.Sub(last) < budget.window {
		return false
	}
	l.told[what] = now
	return true
}

// usedLocked returns how much of budget is used, and, if that is all, until
// when.
func (l *tlsLedger) usedLocked(budget *tlsBudget, now time.Time) (used int, until time.Time) {
	since := now.Add(-budget.window)
	first, _ := slices.BinarySearchFunc(l.issued, since, func(one issuance, since time.Time) int {
		if one.At.After(since) {
			return 1
		}
		return -1
	})
	if used = len(l.issued) - first; used >= budget.limit {
		until = l.issued[len(l.issued)-budget.limit].At.Add(budget.window)
	}
	return used, until
}

// forgetLocked drops what no budget can count any more.
func (l *tlsLedger) forgetLocked(now time.Time) {
	drop := max(0, len(l.issued)-mostIssuances)
	for drop < len(l.issued) && now.Sub(l.issued[drop].At) >= longestWindow {
		drop++
	}
	l.issued = slices.Delete(l.issued, 0, drop)
}

// nowLocked is the time on the ledger's clock.
func (l *tlsLedger) nowLocked() time.Time {
	return l.opened.Add(time.Since(l.opened)).Round(0).UTC()
}

// write makes the present entries durable.
func (l *tlsLedger) write() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	issued := slices.Clone(l.issued)
	l.mu.Unlock()
	data, err := encodeIssuances(issued)
	if err != nil {
		return err
	}
	return instance.WriteFile(l.path, 0o600, data)
}
