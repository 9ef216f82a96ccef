package caddymodule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func openLedger(t *testing.T, dir string) *tlsLedger {
	t.Helper()
	l := newTLSLedger(dir)
	if err := l.open(zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	return l
}

func budgetOf(t *testing.T, text string) *tlsBudget {
	t.Helper()
	budget, err := parseTLSBudget(text)
	if err != nil {
		t.Fatal(err)
	}
	return budget
}

// takes checks that as many certificates as said can be had, and no more.
func (l *tlsLedger) takes(t *testing.T, budget *tlsBudget, want int) {
	t.Helper()
	for i := range want {
		if _, err := l.take("host", budget); err != nil {
			t.Fatalf("certificate %d of %d: %v", i+1, want, err)
		}
	}
	if _, err := l.take("onemore", budget); !isSpent(err) {
		t.Fatalf("after %d certificates: %v, want the budget to be spent", want, err)
	}
}

func isSpent(err error) bool {
	_, ok := errors.AsType[*spentError](err)
	return ok
}

func TestTLSBudgetIsReadOrExplained(t *testing.T) {
	for text, want := range map[string]tlsBudget{
		"40/week": {40, 168 * time.Hour, "40/week"}, "1/hour": {1, time.Hour, "1/hour"}, "10000/day": {10000, 24 * time.Hour, "10000/day"},
	} {
		if got, err := parseTLSBudget(text); err != nil || *got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if got, err := parseTLSBudget(""); got != nil || err != nil {
		t.Errorf("without a budget: %+v, %v, want no limit", got, err)
	}
	for _, text := range []string{"40", "/week", "week", "forty/week", "40/month", "40/", "40/week/week", "40 /week", "4.5/day"} {
		if _, err := parseTLSBudget(text); err == nil || !strings.Contains(err.Error(), "such as 40/week") {
			t.Errorf("%q: %v, want an error that shows how to write it", text, err)
		}
	}
	for _, text := range []string{"0/week", "-1/day", "10001/hour"} {
		if _, err := parseTLSBudget(text); err == nil || !strings.Contains(err.Error(), "1 to 10000") {
			t.Errorf("%q: %v, want an error that names the range", text, err)
		}
	}
}

func TestTheWindowOfTheBudgetSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, budget := openLedger(t, t.TempDir()), budgetOf(t, "2/hour")
		if used, err := l.take("first", budget); used != 1 || err != nil {
			t.Fatalf("%d used, %v", used, err)
		}
		time.Sleep(40 * time.Minute) // of the bubble's clock, as all here
		l.takes(t, budget, 1)
		_, err := l.take("third", budget)
		refused, ok := errors.AsType[*spentError](err)
		if left := time.Until(refused.until); !ok || left != 20*time.Minute {
			t.Errorf("%v: the next one is free in %v, want 20m: the oldest one is 40 minutes old", err, left)
		}
		time.Sleep(20*time.Minute - time.Second)
		l.takes(t, budget, 0)
		time.Sleep(time.Second)
		l.takes(t, budget, 1) // in any hour, not in each hour of the clock
		time.Sleep(time.Hour)
		l.takes(t, budget, 2)
	})
}

func TestTheLedgerIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, budget := t.TempDir(), budgetOf(t, "3/week")
		openLedger(t, dir).takes(t, budget, 3)
		openLedger(t, dir).takes(t, budget, 0)
		openLedger(t, dir).takes(t, budgetOf(t, "5/hour"), 2) // another budget counts the same certificates
		time.Sleep(2 * time.Hour)
		openLedger(t, dir).takes(t, budgetOf(t, "5/hour"), 5)
		openLedger(t, dir).takes(t, budgetOf(t, "12/week"), 2)
		time.Sleep(7 * 24 * time.Hour)
		openLedger(t, dir).takes(t, budget, 3)
	})
}

// TestClocksThatJump starts with a wall clock that is years off what the file
// says. A running process reads it never again.
func TestClocksThatJump(t *testing.T) {
	const years = 10 * 365 * 24 * time.Hour
	at := func(now time.Time, since time.Duration) string {
		return fmt.Sprintf(`{"host":"old","at":%q}`, now.Add(since).Format(time.RFC3339Nano))
	}
	synctest.Test(t, func(t *testing.T) {
		dir, budget := t.TempDir(), budgetOf(t, "3/day")
		content := fmt.Sprintf(`{"version":1,"certificates":[%s,%s]}`, at(time.Now(), years), at(time.Now(), -time.Hour))
		if err := os.WriteFile(filepath.Join(dir, tlsLedgerFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		openLedger(t, dir).takes(t, budget, 1) // the one from the future counts

		// And it does not count for years, nor anew at each restart.
		for range 22 {
			time.Sleep(time.Hour)
			openLedger(t, dir).takes(t, budget, 0)
		}
		time.Sleep(2 * time.Hour)
		openLedger(t, dir).takes(t, budget, 3)
	})
}

func TestFailedOrdersAreGivenBack(t *testing.T) {
	dir, budget := t.TempDir(), budgetOf(t, "2/week")
	l := openLedger(t, dir)
	l.takes(t, budget, 2)
	if err := l.giveBack("host"); err != nil {
		t.Fatal(err)
	}
	openLedger(t, dir).takes(t, budget, 1)
	if err := l.giveBack("never"); err != nil {
		t.Fatal(err)
	}
	l.takes(t, budget, 1)
}

func TestTheBudgetHoldsForManyAtOnce(t *testing.T) {
	dir, budget := t.TempDir(), budgetOf(t, "20/week")
	l := openLedger(t, dir)
	var given atomic.Int64
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			if _, err := l.take(fmt.Sprintf("host%d", i), budget); err == nil {
				given.Add(1)
			} else if !isSpent(err) {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if given.Load() != 20 {
		t.Errorf("%d certificates of 20", given.Load())
	}
	openLedger(t, dir).takes(t, budget, 0)
}

func TestWhatCannotBeCountedIsNotOrdered(t *testing.T) {
	dir, budget := t.TempDir(), budgetOf(t, "2/week")
	l := openLedger(t, dir)
	// A folder in the place of the temporary file: nothing can be written.
	obstacle := filepath.Join(dir, tlsLedgerFile+".tmp")
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := l.take("host", budget); err == nil || isSpent(err) {
		t.Fatalf("%v, want an error of the disk", err)
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	l.takes(t, budget, 2)
}

func TestRefusedHostsAreRefusedUntilOneIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, budget := openLedger(t, t.TempDir()), budgetOf(t, "1/hour")
		l.takes(t, budget, 1) // onemore is refused
		time.Sleep(time.Hour - time.Second)
		if err := l.refuses("onemore", budget); !isSpent(err) {
			t.Errorf("%v, want it refused", err)
		}
		if err := l.refuses("other", budget); err != nil {
			t.Errorf("%v: this one may have a certificate, which is only to be loaded", err)
		}
		time.Sleep(time.Second)
		if err := l.refuses("onemore", budget); err != nil {
			t.Error(err)
		}
	})
}

func TestTheLogIsToldOnceInAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, budget := openLedger(t, t.TempDir()), budgetOf(t, "1/hour")
		told := 0
		for range 240 {
			if l.firstTime(spent, budget) {
				told++
			}
			time.Sleep(time.Minute)
		}
		if told != 4 {
			t.Errorf("told %d times in 4 hours, want 4", told)
		}
		if !l.firstTime(nearlySpent, budget) {
			t.Error("another notice was not given")
		}
	})
}

func TestAnUnreadableLedgerIsSetAside(t *testing.T) {
	for name, content := range map[string]string{
		"cut":     `{"version":1,"certificates":[{"host":"a`,
		"version": `{"version":2,"certificates":[]}`,
		"list":    `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, tlsLedgerFile)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.ErrorLevel)
			l := newTLSLedger(dir)
			if err := l.open(zap.New(core)); err != nil {
				t.Fatal(err)
			}
			kept, _ := filepath.Glob(path + ".corrupt-*")
			if len(kept) != 1 || logs.Len() != 1 || logs.All()[0].ContextMap()["kept"] != kept[0] {
				t.Fatalf("kept %v, logged %v", kept, logs.All())
			}
			if data, err := os.ReadFile(kept[0]); string(data) != content {
				t.Errorf("%q, %v", data, err)
			}
			l.takes(t, budgetOf(t, "1/week"), 1)
		})
	}
}

func TestTheLedgerDoesNotGrowForEver(t *testing.T) {
	l, budget := openLedger(t, t.TempDir()), budgetOf(t, "10000/hour")
	now := time.Now().Round(0)
	for i := range mostIssuances {
		l.issued = append(l.issued, issuance{"host", now.Add(time.Duration(i-mostIssuances) * 2 * time.Minute)})
	}
	if _, err := l.take("host", budget); err != nil {
		t.Fatal(err)
	}
	if n := len(l.issued); n > int(longestWindow/(2*time.Minute))+1 {
		t.Errorf("%d entries, though no window is longer than a week", n)
	}
}

func TestTheLargestBudgetIsABudgetToo(t *testing.T) {
	l, budget := openLedger(t, t.TempDir()), budgetOf(t, "10000/week")
	now := time.Now().Round(0)
	for range mostIssuances - 1 {
		l.issued = append(l.issued, issuance{"host", now})
	}
	if _, err := l.take("last", budget); err != nil {
		t.Fatal(err)
	}
	if _, err := l.take("toomany", budget); err == nil {
		t.Error("one more than the budget was counted")
	}
}

func TestNothingIsTakenBeforeTheFileIsRead(t *testing.T) {
	l := newTLSLedger(t.TempDir())
	if _, err := l.take("host", budgetOf(t, "1/week")); err == nil {
		t.Error("a certificate was counted by a ledger that knows nothing yet")
	}
}
