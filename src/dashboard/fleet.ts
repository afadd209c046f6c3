import { type DeviceSummary, hubNow, type Latest, type Millis, type Reading } from './api.ts'
import { compareNames } from './format.ts'

export interface Device {
  name: string
  /** A connection lives over which it has pushed. */
  online: boolean
  lastSeen: Millis
  latest: Map<string, Latest>
}

export type Presence = 'online' | 'recent' | 'offline'

export const presenceTexts: Record<Presence, string> = {
  online: 'online',
  recent: 'heard recently',
  offline: 'offline',
}

/** A device that pushes over HTTP, or connects for each message, is not gone because it holds no connection. */
const recentMillis = 60_000
const rateSeconds = 5

export function presenceOf(device: Device, now: Millis): Presence {
  if (device.online) return 'online'
  return now - device.lastSeen < recentMillis ? 'recent' : 'offline'
}

/** The metrics of a device, in their order. */
export function metricsOf(device: Device): string[] {
  return [...device.latest.keys()].sort(compareNames)
}

/** All devices with their latest values, as far as the page has heard. */
export interface Fleet {
  readonly devices: ReadonlyMap<string, Device>
  readonly online: number
  /** Begins anew with what the hub says. */
  replace(summaries: DeviceSummary[], latest: { device: string; values: Record<string, Latest> }[]): void
  /** The feed does not tell who comes and goes: the list of devices does. */
  updatePresence(summaries: DeviceSummary[]): void
  /** Returns the devices that were not known before. */
  apply(readings: Reading[]): Device[]
  /** Readings per second that reached the hub in the last few seconds. */
  rate(now: Millis): number
}

export function createFleet(): Fleet {
  const devices = new Map<string, Device>()
  // Counted by the second in which they arrived at the hub: what a reconnected feed replays is no burst.
  const arrivals = new Map<number, number>()
  let since = 0

  function meet(name: string): Device {
    const device: Device = { name, online: false, lastSeen: 0, latest: new Map() }
    devices.set(name, device)
    return device
  }

  return {
    devices,
    get online() {
      let count = 0
      for (const device of devices.values()) if (device.online) count++
      return count
    },
    replace(summaries, latest) {
      devices.clear()
      arrivals.clear()
      since = Math.floor(hubNow() / 1000)
      for (const { device, online, lastSeen } of summaries) Object.assign(meet(device), { online, lastSeen })
      for (const { device, values } of latest) {
        const known = devices.get(device) ?? meet(device)
        known.latest = new Map(Object.entries(values))
      }
    },
    updatePresence(summaries) {
      for (const { device: name, online, lastSeen } of summaries) {
        const device = devices.get(name)
        // One that the feed has not told of yet waits for its readings.
        if (!device) continue
        device.online = online
        device.lastSeen = Math.max(device.lastSeen, lastSeen)
      }
    },
    apply(readings) {
      const unknown: Device[] = []
      for (const { device: name, ts, values, received } of readings) {
        let device = devices.get(name)
        if (!device) {
          device = meet(name)
          unknown.push(device)
        }
        device.lastSeen = Math.max(device.lastSeen, received)
        for (const [metric, value] of Object.entries(values)) {
          const known = device.latest.get(metric)
          // A late reading is history; one of the same time is a correction.
          if (!known || ts >= known.ts) device.latest.set(metric, { ts, value })
        }
        const second = Math.floor(received / 1000)
        arrivals.set(second, (arrivals.get(second) ?? 0) + 1)
      }
      return unknown
    },
    rate(now) {
      // Whole seconds: of the current one, and of that in which the feed began, a part is missing.
      const current = Math.floor(now / 1000)
      const first = Math.max(current - rateSeconds, since + 1)
      let count = 0
      for (const [second, arrived] of arrivals) {
        if (second < first) arrivals.delete(second)
        else if (second < current) count += arrived
      }
      return count / Math.max(1, current - first)
    },
  }
}
