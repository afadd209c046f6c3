import type { Millis } from '../devices/reading.ts'
import type { Names } from './store/entries.ts'
import type { Batch, Opened } from './store/store.ts'

/** Names that the dictionary may hold; a device that invents new names for ever must not fill the memory. */
export const cardinality = { maxDevices: 1_000_000, maxMetrics: 100_000 } as const

interface DeviceEntry {
  id: number
  /** The last time that the hub stamped for this device; the next stamp is later. */
  lastStamp: Millis
}

/**
 * The names of devices and metrics with their numbers. Numbers are given out in order and never taken back; a new
 * name travels with the batch that first uses it.
 */
export interface Dictionary {
  /** `null` when there are too many. */
  device(name: string, batch: Pick<Batch, 'newDevices'>): DeviceEntry | null
  /** 0 when there are too many. */
  metric(name: string, batch: Pick<Batch, 'newMetrics'>): number
  readonly names: Names
}

export function createDictionary(opened: Opened): Dictionary {
  const devices = new Map<string, DeviceEntry>()
  const metrics = new Map<string, number>()
  const deviceNames: string[] = []
  const metricNames: string[] = []
  for (const [id, name, lastStamp] of opened.devices) {
    devices.set(name, { id, lastStamp })
    deviceNames[id] = name
  }
  for (const [id, name] of opened.metrics) {
    metrics.set(name, id)
    metricNames[id] = name
  }
  let lastDevice = opened.devices.reduce((most, [id]) => Math.max(most, id), 0)
  let lastMetric = opened.metrics.reduce((most, [id]) => Math.max(most, id), 0)

  return {
    device(name, batch) {
      const known = devices.get(name)
      if (known) return known
      if (devices.size >= cardinality.maxDevices) return null
      const added = { id: ++lastDevice, lastStamp: 0 }
      devices.set(name, added)
      deviceNames[added.id] = name
      batch.newDevices.push([added.id, name])
      return added
    },
    metric(name, batch) {
      const known = metrics.get(name)
      if (known !== undefined) return known
      if (metrics.size >= cardinality.maxMetrics) return 0
      metrics.set(name, ++lastMetric)
      metricNames[lastMetric] = name
      batch.newMetrics.push([lastMetric, name])
      return lastMetric
    },
    names: {
      device: (id) => deviceNames[id] as string,
      metric: (id) => metricNames[id] as string,
    },
  }
}
