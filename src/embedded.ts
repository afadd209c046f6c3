import { collapse, toReading } from '../devices/codecs.ts'
import { type Decoded, deviceProblem, type Value } from '../devices/reading.ts'
import { emptyDelivery, type Outcome } from '../devices/sink.ts'
import { defaultConfig } from './config.ts'
import { readPlace, writeCursor } from './cursor.ts'
import { earliest } from './feed.ts'
import { startHub } from './hub.ts'
import { createLog } from './log.ts'
import type { Config } from './settings.ts'
import { version } from './version.ts'

/** Settings as `telemetry-hub --help` lists them; durations in milliseconds, sizes in bytes. Ports are free ones unless given. */
export type HubOptions = Partial<Omit<Config, 'demo'>>

/** A reading as it goes in: without `ts` the hub stamps it. */
export interface GivenReading {
  device: string
  /** Milliseconds since the Unix epoch, or RFC 3339. */
  ts?: number | string
  values: Record<string, unknown>
}

export interface StoredReading {
  device: string
  ts: number
  values: Record<string, Value>
  /** When it arrived, in milliseconds. */
  received: number
}

export interface Ingested {
  accepted: number
  /** Stored before, to the letter. */
  duplicates: number
  /** What cannot be stored, by its place in the list, from 0; it is in the quarantine. */
  rejected: { index: number; reason: string }[]
  /** The place in the feed after these readings. */
  cursor: string
}

export interface FollowOptions {
  /** A cursor, `earliest` or `latest`. */
  after?: string
  /** Names or patterns, in which `*` stands for any characters. */
  devices?: string[]
  metrics?: string[]
  /** Readings of one batch at most. */
  limit?: number
  signal?: AbortSignal
}

/**
 * A hub in this process. Where it cannot go on it closes its doors and says so in the log; from then on `ingest` and `feed`
 * reject. The program itself goes on.
 */
export interface EmbeddedHub {
  /** `null` with `mqttPort: 'off'`. */
  readonly mqttPort: number | null
  /** `null` without a certificate. */
  readonly mqttTlsPort: number | null
  readonly httpPort: number
  /** Resolves when the readings are on disk and in every answer. Rejects when the hub is closing and nothing was stored. */
  ingest(readings: readonly GivenReading[]): Promise<Ingested>
  /** The feed: what is there and then what comes, until the signal or the hub ends it. Throws when the cursor is not good. */
  feed(options?: FollowOptions): AsyncGenerator<{ readings: StoredReading[]; cursor: string }, void, void>
  /** Takes no more in and lets go of everything that was acknowledged. Twice is fine. */
  close(): Promise<void>
}

const defaultLimit = 1000
const decoder = new TextDecoder()
/** After so long without a reading, a batch without any tells how far the feed has come. */
const heartbeatMillis = 15_000

/** Opens a hub with all its doors, MQTT and HTTP on this machine. Rejects with `StartError` and what to do when it cannot. */
export async function createHub(options: HubOptions = {}): Promise<EmbeddedHub> {
  const config = {
    ...defaultConfig(),
    mqttPort: 0,
    mqttTlsPort: 0,
    httpPort: 0,
    logLevel: 'warn',
    ...options,
    demo: false,
  }
  const logger = await createLog(config.logLevel)
  // The program goes on without its hub, and hears of it at its next call.
  let death: Error | null = null
  let close = async (): Promise<void> => {}
  const hub = await startHub(config, version, logger, (reason) => {
    logger.fatal(`${reason}: the hub ends`)
    death = new Error(`the hub has ended: ${reason}`)
    close().catch((error) => logger.error({ err: error }, 'closing the hub has failed'))
  })
  close = hub.close
  const { feed, sink, window, log } = hub

  async function ingest(given: readonly GivenReading[]): Promise<Ingested> {
    if (death) throw death
    const now = Date.now()
    const decoded: Decoded = { readings: [], rejected: [] }
    given.forEach(({ device, ts, values }, index) => {
      const item = ts === undefined ? { values } : { ts, values }
      const reading = deviceProblem(device) ?? toReading(item, { device, metric: null, now, window })
      if (typeof reading !== 'string') decoded.readings.push(reading)
      else decoded.rejected.push({ item: index + 1, payload: JSON.stringify({ device, ...item }), reason: reading })
    })
    const delivery = { ...emptyDelivery('createHub().ingest'), ...collapse(decoded, JSON.stringify(given)) }
    const outcome = await new Promise<Outcome>((resolve) => sink.accept(delivery, resolve))
    if (outcome.failure !== null) throw new Error(`nothing was stored: ${outcome.failure}`)
    return {
      accepted: outcome.accepted,
      duplicates: outcome.duplicates,
      rejected: decoded.rejected.map(({ item, reason }) => ({ index: item - 1, reason })),
      cursor: writeCursor(log.hub, outcome.offset),
    }
  }

  async function* follow(options: FollowOptions = {}) {
    const { after = 'latest', devices = [], metrics = [], limit = defaultLimit, signal } = options
    const query = { after: readPlace(log, feed.end, after), limit, filter: { devices, metrics } }
    const never = new AbortController().signal
    let place = query.after
    for await (const page of feed.follow(query, { signal: signal ?? never, heartbeat: heartbeatMillis })) {
      if (page.oldest > place && place !== earliest) throw new Error('readings after the cursor are no longer kept')
      place = page.next
      yield {
        readings: JSON.parse(`[${decoder.decode(page.text)}]`) as StoredReading[],
        cursor: writeCursor(log.hub, page.next),
      }
    }
    if (death) throw death
  }

  return {
    mqttPort: hub.mqttPort,
    mqttTlsPort: hub.mqttTlsPort,
    httpPort: hub.httpPort,
    ingest,
    feed: follow,
    close: hub.close,
  }
}
