import type { Millis } from '../../devices/reading.ts'
import { Problem } from '../errors.ts'
import { type Filter, readPatterns } from '../store/filter.ts'
import { parseDuration } from '../units.ts'
import type { PushSettings } from './push-settings.ts'

/** A consumer as its owner describes it; kept and shown as it was given, with the defaults filled in. */
export interface ConsumerSettings {
  filter: { device?: string; metric?: string }
  /** A duration: what is not acknowledged within it is delivered again. */
  ackWait: string
  /** Deliveries of a reading, the first included; after the last it is a dead letter. */
  maxDeliver: number
  /** Readings that may be delivered and not acknowledged at one time. */
  maxPending: number
  /** Durations to wait before the second, third … delivery, besides `ackWait`; the last one counts for all that follow. */
  backoff: string[]
  /** How the hub moves the cursor; `null`: readers do. */
  push: PushSettings | null
}

export const defaultSettings: ConsumerSettings = {
  filter: {},
  ackWait: '30s',
  maxDeliver: 5,
  maxPending: 1000,
  backoff: [],
  push: null,
}

/** The settings as the consumer works with them. */
export interface Rules {
  filter: Filter
  ackWait: Millis
  maxDeliver: number
  maxPending: number
  /** How much longer than `ackWait` a reading waits after so many deliveries. */
  backoff(attempt: number): Millis
}

export function readRules({ filter, ackWait, maxDeliver, maxPending, backoff }: ConsumerSettings): Rules {
  const delays = backoff.map((text) => readDuration('backoff', text))
  const wait = readDuration('ackWait', ackWait)
  if (wait < 100) throw new Problem('invalid-request', `"ackWait" is "${ackWait}": at least 100ms are needed`)
  return {
    filter: { devices: readPatterns(filter.device), metrics: readPatterns(filter.metric) },
    ackWait: wait,
    maxDeliver,
    maxPending,
    backoff: (attempt) => delays[Math.min(attempt, delays.length) - 1] ?? 0,
  }
}

/** At most a week: longer waits are for a scheduler, not for a queue. */
const maxDuration = 7 * 86_400_000

export function readDuration(name: string, text: string): Millis {
  const millis = parseDuration(text)
  if (millis === null) {
    throw new Problem('invalid-request', `"${name}" is "${text}": expected a duration such as 500ms, 30s, 5m or 1h`)
  }
  if (millis > maxDuration) throw new Problem('invalid-request', `"${name}" is "${text}": at most 7d are possible`)
  return Math.round(millis)
}

/** Patterns of the devices that a consumer is about; without a filter they are all. */
export function devicesOf({ device }: ConsumerSettings['filter']): string[] {
  const patterns = readPatterns(device)
  return patterns.length > 0 ? patterns : ['*']
}
