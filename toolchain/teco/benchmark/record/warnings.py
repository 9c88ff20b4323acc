"""What makes the figures of a record less sure."""

from __future__ import annotations

from teco.benchmark.record.record import Record
from teco.measurement.records import TimingWarning
from teco.measurement.warnings import latency_warnings, machine_warnings, noise_warnings


def warnings_of(record: Record) -> tuple[TimingWarning, ...]:
    """All that there are: of the machine, of the noise floor, of each candidate."""
    c = record.conditions
    timed = [(row.key, row.latency) for row in record.rows if row.latency and not row.measured_as]
    return (
        *machine_warnings(
            load_before=c.load_before, cores=record.machine.cores, busy_share=c.busy_share,
            throttled=c.throttled, governor=c.governor,
        ),
        *noise_warnings(record.noise),
        *latency_warnings(timed, c.timer_overhead_ns),
    )  # fmt: skip
