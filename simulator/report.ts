import type { SkippedRow } from './csv-rows.ts'
import type { FleetStats } from './fleet.ts'
import type { Verification } from './verify.ts'

/** What a run came to. `--json` prints it as it is. Counts are of readings unless they say otherwise. */
export interface Summary {
  broker: string
  /** Profile and scenario, or the replayed file. */
  load: string
  devices: number
  connections: number
  qos: 0 | 1 | 2
  seconds: number
  /** Repeats on purpose included, here and in the next two. */
  due: number
  sent: number
  /** Always 0 at QoS 0, which has no acknowledgements. */
  acknowledged: number
  /** Sent to be refused. */
  bad: number
  messages: number
  /** Readings a second: acknowledged, at QoS 0 sent. */
  rate: number
  /** From due to acknowledged, at QoS 0 to written. */
  latencyMillis: { p50: number; p90: number; p99: number; p999: number; max: number } | null
  reconnects: number
  errors: { count: number; last: string | null }
  replay: { rows: number; skipped: number; firstSkipped: SkippedRow[] } | null
  verification: Verification | null
  /** Why the exit code is not 0. */
  failure: string | null
  exitCode: 0 | 1
}

const percentiles = { p50: 50, p90: 90, p99: 99, p999: 99.9 }

export function latencyMillis({ latency }: FleetStats): Summary['latencyMillis'] {
  if (latency.count === 0) return null
  const of = (percentile: number) => latency.percentile(percentile) / 1000
  const { p50, p90, p99, p999 } = percentiles
  return { p50: of(p50), p90: of(p90), p99: of(p99), p999: of(p999), max: latency.max / 1000 }
}

export function progressLine(stats: FleetStats, elapsedMillis: number, due: number, rate: number): string {
  const latency = latencyMillis(stats)
  return [
    clock(elapsedMillis),
    `due ${count(due)}`,
    `sent ${count(stats.sent)}`,
    `acknowledged ${count(stats.acknowledged)}`,
    `${count(rate)}/s`,
    `in flight ${count(stats.inFlight)}`,
    latency ? `p50 ${millis(latency.p50)} p99 ${millis(latency.p99)}` : 'no latency yet',
    `connected ${count(stats.connected)}`,
    `reconnects ${count(stats.reconnects)}`,
    `errors ${count(stats.errors)}`,
  ].join(' · ')
}

export function summaryText(summary: Summary): string {
  const { latencyMillis: latency, replay, verification } = summary
  const lines = [
    ['load', summary.load],
    [
      'by',
      `${count(summary.devices)} devices, ${count(summary.connections)} connections, QoS ${summary.qos}, ${summary.seconds.toFixed(1)} s`,
    ],
    ['due', count(summary.due)],
    [
      'sent',
      `${count(summary.sent)} in ${count(summary.messages)} messages${summary.bad ? `, ${count(summary.bad)} to be refused` : ''}`,
    ],
    ['acknowledged', summary.qos === 0 ? 'none at QoS 0' : count(summary.acknowledged)],
    ['rate', `${count(summary.rate)} readings/s`],
  ]
  if (latency) {
    const { p50, p90, p99, p999, max } = latency
    const parts = Object.entries({ p50, p90, p99, 'p99.9': p999, max }).map(
      ([name, value]) => `${name} ${millis(value)}`,
    )
    lines.push([summary.qos === 0 ? 'due to written' : 'latency', parts.join('  ')])
  }
  lines.push(['reconnects', count(summary.reconnects)])
  const { errors } = summary
  lines.push(['errors', count(errors.count) + (errors.last === null ? '' : `, the last: ${errors.last}`)])
  if (replay) {
    lines.push(['rows', `${count(replay.rows)} read, ${count(replay.skipped)} skipped`])
    for (const { line, reason } of replay.firstSkipped) lines.push(['', `line ${line}: ${reason}`])
    const unnamed = replay.skipped - replay.firstSkipped.length
    if (unnamed > 0) lines.push(['', `and ${count(unnamed)} more`])
  }
  if (verification) lines.push(...verificationLines(verification))
  if (summary.failure) lines.push(['failed', summary.failure])
  const width = Math.max(...lines.map(([name]) => name!.length)) + 2
  return `${lines.map(([name, value]) => name!.padEnd(width) + value).join('\n')}\n`
}

const verificationWords = [
  'acknowledged',
  'stored',
  'missing',
  'different',
  'duplicated',
  'unexpected',
  'corrected',
  'excluded',
] as const

function verificationLines(verification: Verification): string[][] {
  const counts = verificationWords.map((word) => `${word} ${count(verification[word])}`)
  return [
    ['verified', `sent ${count(verification.sent)}, ${counts.join(', ')}`],
    ...verification.examples.map(({ device, ts, problem }) => ['', `${problem}: ${device} at ${time(ts)}`]),
  ]
}

/** A hub may answer with anything for a time. */
function time(ts: number): string {
  const date = new Date(ts)
  return Number.isNaN(date.getTime()) ? String(ts) : date.toISOString()
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

function millis(value: number): string {
  return `${value < 100 ? value.toFixed(1) : count(value)} ms`
}

function clock(elapsedMillis: number): string {
  const seconds = Math.floor(elapsedMillis / 1000)
  const two = (value: number) => String(value).padStart(2, '0')
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`
}
