import type { Millis } from '../../devices/reading.ts'
import type { Note } from '../../devices/sink.ts'
import type { HistoryPage, HistoryQuery } from '../history/query.ts'
import type { Entries } from './entries.ts'
import type { Filter } from './filter.ts'

/** The place of a reading in the log: the first one has 1, and each has one more than the one before. */
export type Offset = number

/** What one commit shall make durable. Everything in it becomes visible at once, or nothing does. */
export interface Batch {
  /** In the form of record.ts; devices and metrics by the numbers of the dictionary. Empty: no readings. */
  records: Uint8Array | null
  count: number
  received: Millis
  /** Names that the dictionary does not hold yet, with the numbers that `records` uses for them. */
  newDevices: [id: number, name: string][]
  newMetrics: [id: number, name: string][]
  quarantine: Unreadable[]
  handshakes: HandshakeEntry[]
  consumers: ConsumerChange[]
  /** Kept as they are; each key once. */
  notes: readonly Note[]
}

/** How a consumer stands after something was done with it. */
export interface ConsumerChange {
  name: string
  /** As JSON, for whoever reads them; `null`: the consumer and its dead letters are gone. */
  settings: string | null
  state: string
  buried: DeadLetter[]
  /** Dead letters that leave, by their offsets. */
  raised: Offset[]
}

/** A reading that a consumer gave up, with a copy of it: the log may forget the original. */
export interface DeadLetter {
  offset: Offset
  at: Millis
  attempts: number
  reason: string
  /** As JSON. */
  reading: string
}

export interface KeptConsumer {
  name: string
  settings: string
  state: string
  deadLetters: Offset[]
}

/** What lets somebody in; what it may do is JSON, for whoever checks it. */
export interface KeptCredential {
  id: string
  kind: 'token' | 'device'
  name: string
  rules: string
  hash: string | null
  created: Millis
  expires: Millis | null
  lastUsed: Millis | null
}

/** Something that an administrator did. */
export interface AuditEntry {
  at: Millis
  /** Who, and from where. */
  actor: string
  action: string
  subject: string
}

/** A client's QoS 2 exchange that begins (`packetId`), ends (`-packetId`), or all of the client's that end (0). */
export type HandshakeEntry = [client: string, packetId: number, digest: number]
/** An exchange that has begun and not ended. */
export type OpenHandshake = [packetId: number, digest: number]

export interface Unreadable {
  received: Millis
  origin: string
  device: string
  reason: string
  payload: string | Uint8Array
}

export interface Quarantined extends Unreadable {
  id: number
  payload: Uint8Array
}

/** Where a batch went. */
export interface Appended {
  first: Offset
  /** How many readings were stored. */
  count: number
  /** Which readings of the batch (from 0) were stored before and now left out. */
  duplicates: number[]
  /** What the log holds of the batch, if that is not `records` as given. */
  records: Uint8Array | null
}

/** Which part of the log is asked for. */
export interface LogQuery {
  /** The offset of the first reading wanted. */
  after: Offset
  /** Nothing at or after this offset, though it may be on disk already. */
  before: Offset
  /** How many readings at most; the answer may hold fewer and still not be at the end. */
  limit: number
  filter: Filter
}

/** Readings of the log that pass a filter. */
export interface LogPage extends Entries {
  /** Where to go on: past everything that was looked at, whether it passed the filter or not. */
  next: Offset
  /** The first offset that is kept. Asked for an earlier one, a page is empty and says so by this. */
  oldest: Offset
}

/** Which devices are asked for; they come in the order of their names. */
export interface DeviceQuery {
  /** The name after which to begin; empty: with the first. */
  after: string
  limit: number
  /** Patterns of names, or (`exact`) the names themselves. Empty: all. */
  devices: readonly string[]
  exact: boolean
}

export interface DeviceSummary {
  device: string
  firstSeen: Millis
  lastSeen: Millis
  metrics: string[]
}

/** Devices with the newest value of each metric, as JSON ready to be sent. */
export interface LatestPage {
  /** `{"device":…,"values":{"temperature":{"ts":…,"value":…}}}` of each device, with commas between. */
  entries: string
  /** The name after which to go on, or `null` when there are no more devices. */
  next: string | null
}

/** A log that went on otherwise after `end`: before that, its offsets are those of this one. */
export interface EarlierLog {
  hub: string
  end: Offset
}

/** What is known when a store opens. */
export interface Opened {
  /** Names this hub's log: a cursor of another hub is told by it. A restored backup goes on under a new name. */
  hub: string
  earlier: EarlierLog[]
  devices: [id: number, name: string, lastStamp: Millis][]
  metrics: [id: number, name: string][]
  /** Begun and not ended QoS 2 exchanges. */
  handshakes: [client: string, open: OpenHandshake[]][]
  consumers: KeptConsumer[]
  credentials: KeptCredential[]
  notes: [key: string, value: Uint8Array][]
  oldest: Offset
  end: Offset
}

export interface StoreStatus {
  /** Why commits fail at present, or `null`. While it is set, batches wait and are tried again. */
  failure: string | null
}

/** Figures for `/metrics`. */
export interface StoreFigures {
  oldest: Offset
  end: Offset
  devices: number
  metrics: number
  /** Readings in memory that wait to be sealed; the log holds them too. */
  unsealed: number
  /** Parts of history that were found damaged since the start, and passed over. */
  damagedBlocks: number
  quarantined: number
  quarantineDropped: number
  logBytes: number
  fileBytes: number
  walBytes: number
}

/**
 * One durable log of readings and the history made of it.
 *
 * - `append` resolves after the batch is on disk (as `durability` defines it) and visible to every other call.
 *   Batches are appended in the order of the calls. While storage fails it does not resolve; it rejects only when
 *   the store closes, and then the batch may not be acknowledged.
 * - An identical reading (device, ts, values) is stored once.
 * - All other calls see every batch whose `append` has resolved.
 */
export interface Store {
  readonly opened: Opened
  append(batch: Batch): Promise<Appended>
  readLog(query: LogQuery): Promise<LogPage>
  /** Raw readings or aggregates of one device, already in the form that was asked for. `null`: unknown device. */
  history(query: HistoryQuery): Promise<HistoryPage | null>
  devices(query: DeviceQuery): Promise<DeviceSummary[]>
  latest(query: DeviceQuery & { metrics: string[] }): Promise<LatestPage>
  quarantine(query: { before: number | null; limit: number }): Promise<Quarantined[]>
  quarantined(id: number): Promise<Quarantined | null>
  /** False: there was none. */
  removeQuarantined(id: number): Promise<boolean>
  /** Dead letters of a consumer from an offset on, in the order of the log. */
  deadLetters(query: { consumer: string; after: Offset; limit: number }): Promise<DeadLetter[]>
  /** The first reading of the log that arrived at a time or later; `null`: all are older. */
  offsetAt(time: Millis): Promise<Offset | null>
  /** Forgets log readings that arrived before `logBefore` or lie below `logBelow`, and blocks that end before `historyBefore`. */
  forget(limits: { logBefore: Millis; logBytes: number; historyBefore: Millis }): Promise<void>
  saveCredential(credential: KeptCredential, by: AuditEntry): Promise<void>
  /** False: there was none. */
  removeCredential(id: string, by: AuditEntry): Promise<boolean>
  touchCredentials(used: [id: string, at: Millis][]): Promise<void>
  audit(entry: AuditEntry): Promise<void>
  /** The newest first. */
  audited(query: { before: number | null; limit: number }): Promise<(AuditEntry & { id: number })[]>
  figures(): Promise<StoreFigures>
  onStatus(listener: (status: StoreStatus) => void): void
  /** A part of history cannot be read; it is passed over where that is harmless. */
  onDamage(listener: (what: string) => void): void
  /** Another process has changed the credentials. */
  onCredentials(listener: (credentials: KeptCredential[]) => void): void
  /** A part of the store has ended by itself. Nothing more will be stored or answered: the process should end. */
  onDeath(listener: (reason: string) => void): void
  close(): Promise<void>
}
