import type { CsvRows, Row } from './csv-rows.ts'
import type { Ledger } from './ledger.ts'
import { fingerprintOf, join, type Load, type Message, telemetryTopic } from './load.ts'
import type { Render } from './template.ts'

/** Recorded readings, in the order of their file. */
export interface ReplayLoad extends Load {
  /** By index of the device; grows as they appear. */
  readonly names: string[]
  readonly rows: number
  /** Why the file could not be read to its end. */
  readonly failure: Error | undefined
  /** Starts to read; `wake` hears of each connection that has a new message. */
  start(wake: (connection: number) => void): void
}

/** Readings read ahead of the hub: enough that the file is never what a fast hub waits for. */
const readAhead = 2000

export function createReplayLoad(options: {
  source: CsvRows
  connections: number
  batch: number
  /** Rows in all. */
  count: number
  /** How many times faster than it was recorded; Infinity: as fast as the hub takes it. */
  speed: number
  render: Render
  ledger: Ledger | undefined
}): ReplayLoad {
  const { source, connections, batch, speed, render, ledger } = options
  const names: string[] = []
  const devices = new Map<string, Device>()
  const queues: Queued[][] = Array.from({ length: connections }, () => [])
  let firstTs = Number.NaN
  let rows = 0
  let queued = 0
  let taken = 0
  let ended = false
  let failure: Error | undefined
  let roomMade: (() => void) | undefined
  let wake: (connection: number) => void = () => {}

  function open(name: string): Device {
    const device: Device = { index: names.length, name, readings: 0, pending: [], dueMillis: 0 }
    names.push(name)
    devices.set(name, device)
    return device
  }

  function add(row: Row): void {
    const device = devices.get(row.device) ?? open(row.device)
    if (rows++ === 0) firstTs = row.ts
    const text = render(row.device, row.ts, device.readings, row.values)
    device.readings++
    device.pending.push({ text, ts: row.ts, fingerprint: ledger ? fingerprintOf(render, text, row.values) : 0 })
    device.dueMillis = Math.max(0, (row.ts - firstTs) / speed)
    if (device.pending.length >= batch) flush(device)
  }

  function flush(device: Device): void {
    const { pending, dueMillis } = device
    if (pending.length === 0) return
    const connection = device.index % connections
    queues[connection]!.push({ device, firstReading: device.readings - pending.length, readings: pending, dueMillis })
    device.pending = []
    queued += pending.length
    wake(connection)
  }

  async function read(): Promise<void> {
    for await (const row of source.rows()) {
      add(row)
      if (rows >= options.count) break
      if (queued >= readAhead) await new Promise<void>((resolve) => (roomMade = resolve))
    }
    for (const device of devices.values()) flush(device)
  }

  return {
    names,
    get rows() {
      return rows
    },
    get failure() {
      return failure
    },
    start(wakeConnection) {
      wake = wakeConnection
      read()
        .catch((error: Error) => (failure = error))
        .finally(() => (ended = true))
    },
    nextDue: (connection) => queues[connection]![0]?.dueMillis ?? Infinity,
    take(connection, nowMillis): Message {
      const { device, firstReading, readings, dueMillis } = queues[connection]!.shift()!
      queued -= readings.length
      taken += readings.length
      roomMade?.()
      readings.forEach(({ ts, fingerprint }, at) => {
        ledger?.sent(device.index, firstReading + at, ts, fingerprint, false)
      })
      return {
        topic: telemetryTopic(device.name),
        payload: join(readings.map(({ text }) => text)),
        // At full speed nothing is due at a time of its own: what counts is how long the hub takes for it.
        dueMillis: speed === Infinity ? nowMillis : dueMillis,
        device: device.index,
        firstReading,
        readings: readings.length,
        bad: false,
      }
    },
    acknowledged: ({ device, firstReading, readings }) => ledger?.acknowledged(device, firstReading, readings),
    due(nowMillis) {
      const waiting = queues.flat()
      const due = waiting.filter((message) => message.dueMillis <= nowMillis)
      return {
        readings: taken + due.reduce((sum, { readings }) => sum + readings.length, 0),
        all: ended && due.length === waiting.length,
      }
    },
    finished: () => ended && queued === 0,
  }
}

interface Device {
  index: number
  name: string
  /** How many came so far, those in `pending` included. */
  readings: number
  /** What waits for its batch to be full. */
  pending: Written[]
  /** When the last of them is due. */
  dueMillis: number
}

interface Written {
  text: string
  ts: number
  fingerprint: number
}

/** A message that has not been sent yet. */
interface Queued {
  device: Device
  firstReading: number
  readings: Written[]
  dueMillis: number
}
