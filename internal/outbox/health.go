package outbox

// How well the application accepts events, seen over all tries: what is worth a log line, and whether tries must be paced.
// Pure; delivery guards it with its lock and writes the lines after letting go of it.

import "time"

const (
	failingAfter      = 16               // failed tries in a row, over all streams, that make the application count as failing
	reportEvery       = 30 * time.Second // at least this long between two reports that the application fails
	acceptingFor      = 13 * time.Second // after an accepted event no report: connections that died with it fail until then
	streamReportAfter = 2                // failed tries of one event that are worth a line
	streamReports     = 10               // streams reported as failing at most within streamReportSpan
	streamReportSpan  = time.Minute
	streamsReported   = 100 // streams whose end of failing will be reported, at most
)

// healthNews is a change worth a log line.
type healthNews int

const (
	nothingNew healthNews = iota
	applicationFails
	applicationWorks
	streamFails
	streamWorks
)

type health struct {
	inRow        int       // failed tries since the last success
	acceptedAt   time.Time // when an event was accepted last
	reported     bool      // that the application fails
	reportedAt   time.Time // when last
	streams      map[uint64]struct{}
	spanStart    time.Time
	reportedSpan int // streams reported since spanStart
}

// failing reports whether so many tries failed in a row that retries should be paced.
func (h *health) failing() bool { return h.inRow >= failingAfter }

func (h *health) succeeded(queue uint64, now time.Time) healthNews {
	h.inRow, h.acceptedAt = 0, now
	_, streamReported := h.streams[queue]
	delete(h.streams, queue)
	switch {
	case h.reported:
		h.reported = false
		return applicationWorks
	case streamReported:
		return streamWorks
	}
	return nothingNew
}

// failed notes that an event of the queue was not accepted, attempt times by now.
func (h *health) failed(queue uint64, attempt int, now time.Time) healthNews {
	h.inRow++
	if h.failing() {
		if h.reported || now.Sub(h.reportedAt) < reportEvery || now.Sub(h.acceptedAt) < acceptingFor {
			return nothingNew
		}
		h.reported, h.reportedAt = true, now
		return applicationFails
	}
	if _, known := h.streams[queue]; known || attempt < streamReportAfter || len(h.streams) >= streamsReported {
		return nothingNew
	}
	if now.Sub(h.spanStart) >= streamReportSpan {
		h.spanStart, h.reportedSpan = now, 0
	}
	if h.reportedSpan >= streamReports {
		return nothingNew
	}
	h.reportedSpan++
	if h.streams == nil {
		h.streams = make(map[uint64]struct{})
	}
	h.streams[queue] = struct{}{}
	return streamFails
}
