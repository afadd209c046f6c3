import type { Sample } from '../devices/profiles.ts'
import type { Value } from '../devices/reading.ts'

/** As written into a payload: a hub flattens what is nested. */
export type Values = { [metric: string]: Value | Values }

/**
 * What a scenario does to the plan. Every hook is a pure function; a scenario without a hook leaves that part alone.
 * Indexes count from 0: `device` in the run, `message` and `reading` in the device.
 */
export interface Scenario {
  description: string
  /**
   * The order in which the messages of a block go out, as positions in the block; a position that comes twice is sent
   * twice. A message is never sent before it is due: whatever stands behind a later one waits for that one.
   */
  order?: number[]
  /** When a message that was due at `dueMillis` goes out; must not fall when `dueMillis` grows. */
  due?(dueMillis: number, periodMillis: number): number
  /** What the device's own clock says at `ts`. */
  clock?(ts: number, device: number, startMillis: number): number
  values?(values: Sample, reading: number): Values
  /** Replaces the payload of a message that is `bad`. */
  spoil?(payload: string, message: number): string | Buffer
  /** True when a hub has to put the message into its quarantine. */
  bad?(device: number, message: number): boolean
  /** How often every connection has been cut by then. */
  drops?(elapsedMillis: number, periodMillis: number): number
}

const secondMillis = 1000
const dayMillis = 86_400_000

/** How wrong the clocks of ten devices are. The last two are beyond what a hub may accept. */
const clocks: ((ts: number, startMillis: number) => number)[] = [
  (ts) => ts,
  (ts) => ts,
  (ts) => ts + 2 * secondMillis,
  (ts) => ts - 2 * secondMillis,
  (ts) => ts + 45 * secondMillis,
  (ts) => ts - 45 * secondMillis,
  (ts) => ts + 600 * secondMillis,
  (ts) => ts - 600 * secondMillis,
  // Never set: counts from 1970 since it was switched on.
  (ts, startMillis) => ts - startMillis,
  // Seconds where milliseconds are wanted.
  (ts) => Math.floor(ts / 1000),
]
const firstBadClock = 8

/** Ways to send something that nobody can read. */
const spoilers: ((payload: string) => string | Buffer)[] = [
  (payload) => payload.slice(0, Math.ceil(payload.length / 2)),
  () => 'temperature=21.4',
  () => '{"ts":"yesterday","values":{"temperature":21.4}}',
  () => '{"ts":1700000000,"values":{"temperature":21.4}}',
  () => '{"temperature":NaN}',
  () => Buffer.from([0x00, 0xff, 0xfe, 0x80, 0x7b, 0x22, 0xc3, 0x28]),
  () => JSON.stringify({ text: 'x'.repeat(5000) }),
  () => '',
]
const badEvery = 10

/** What firmware updates do to the names, types and shape of the values; each stage lasts for `driftEvery` readings. */
const drifts: ((values: Sample) => Values)[] = [
  (values) => values,
  (values) => ({ ...values, firmware: '2.0.0' }),
  (values) => Object.fromEntries(Object.entries(values).map(([metric, value]) => [metric, String(value)])),
  (values) => Object.fromEntries(Object.entries(values).map(([metric, value]) => [`${metric}_v2`, value])),
  (values) => ({ data: values }),
  (values) => Object.fromEntries(Object.entries(values).slice(1)),
]
const driftEvery = 20

export const scenarios: Record<string, Scenario> = {
  steady: {
    description: 'every reading in its time',
  },
  burst: {
    description: 'devices gather readings for a period and send them in the first tenth of the next',
    due: (dueMillis, periodMillis) =>
      (Math.floor(dueMillis / periodMillis) + 1) * periodMillis + (dueMillis % periodMillis) / 10,
  },
  'reconnect-storm': {
    description: 'once a period every connection is cut, and all come back at once',
    drops: (elapsedMillis, periodMillis) => Math.floor(elapsedMillis / periodMillis),
  },
  'clock-skew': {
    description: 'clocks up to ten minutes wrong; two devices in ten are off by decades (for the quarantine)',
    clock: (ts, device, startMillis) => clocks[device % clocks.length]!(ts, startMillis),
    bad: (device) => device % clocks.length >= firstBadClock,
  },
  'late-data': {
    description: 'messages overtake each other, and every fourth device sends the readings of the day before',
    order: [0, 1, 3, 4, 2, 5, 6, 8, 9, 7],
    clock: (ts, device) => (device % 4 === 3 ? ts - dayMillis : ts),
  },
  duplicates: {
    description: 'of five messages one is sent again',
    order: [0, 1, 2, 3, 4, 2],
  },
  'bad-payloads': {
    description: 'one message in ten cannot be read (for the quarantine)',
    bad: (_device, message) => message % badEvery === badEvery - 1,
    spoil: (payload, message) => spoilers[Math.floor(message / badEvery) % spoilers.length]!(payload),
  },
  'schema-drift': {
    description: 'metrics appear, vanish, nest, and change their names and types',
    values: (values, reading) => drifts[Math.floor(reading / driftEvery) % drifts.length]!(values),
  },
}
