import type { Scenario } from './scenarios.ts'

/**
 * When, who and what: the whole load as functions of indexes. Nothing is queued anywhere: a message that has to wait is
 * a cursor that has not moved.
 */
export interface Plan {
  devices: number
  connections: number
  /** Of one device, in whole milliseconds and growing with `reading`. */
  tsMillis(device: number, reading: number): number
  /** How many readings the device makes in all; may be Infinity. */
  readings(device: number): number
  /** What goes out as the device's send number `index`, or nothing where the last block is not full. */
  send(device: number, index: number): Send | undefined
  /** No send of the device has this index or a higher one. */
  sends(device: number): number
}

export interface Send {
  device: number
  /** Which of the device's messages this is: two sends of one message carry the same readings. */
  message: number
  firstReading: number
  readings: number
  /** Since the start of the load. */
  dueMillis: number
}

export interface PlanOptions {
  devices: number
  connections: number
  /** Readings a second and device. */
  rate: number
  /** Readings of all devices together; Infinity for no limit. */
  count: number
  durationMillis: number
  /** Readings in a message. */
  batch: number
  /** The `ts` that belongs to the start of the load. */
  startMillis: number
  scenario: Scenario
  periodMillis: number
}

export function createPlan(options: PlanOptions): Plan {
  const { devices, connections, batch, scenario } = options
  const intervalMillis = 1000 / options.rate
  // Times are whole milliseconds and must grow: above 1,000 readings a second a device's clock runs ahead.
  const tsIntervalMillis = Math.max(1, intervalMillis)
  const order = scenario.order ?? [0]
  const blockMessages = Math.max(...order) + 1
  /** For each place in a block the latest message sent so far: nothing goes out before it is due. */
  const latest = order.map((_, place) => Math.max(...order.slice(0, place + 1)))

  // The devices are spread evenly over the time that one message takes, so that the sum of all is smooth.
  const phase = (device: number) => (device / devices) * batch

  function readings(device: number): number {
    const ofCount = Math.floor(options.count / devices) + (device < options.count % devices ? 1 : 0)
    const ofDuration = Math.ceil(options.durationMillis / intervalMillis - phase(device))
    return Math.max(0, Math.min(Number.isFinite(options.count) ? ofCount : Infinity, ofDuration))
  }

  function dueMillis(device: number, message: number): number {
    const lastReading = Math.min((message + 1) * batch, readings(device)) - 1
    const planned = (lastReading + phase(device)) * intervalMillis
    return scenario.due?.(planned, options.periodMillis) ?? planned
  }

  return {
    devices,
    connections,
    readings,
    tsMillis: (device, reading) =>
      options.startMillis + Math.floor(phase(device) * tsIntervalMillis) + Math.floor(reading * tsIntervalMillis),
    sends: (device) => Math.ceil(Math.ceil(readings(device) / batch) / blockMessages) * order.length,
    send(device, index) {
      const place = index % order.length
      const block = Math.floor(index / order.length) * blockMessages
      const message = block + order[place]!
      const total = readings(device)
      const firstReading = message * batch
      if (firstReading >= total) return undefined
      const lastMessage = Math.ceil(total / batch) - 1
      return {
        device,
        message,
        firstReading,
        readings: Math.min(batch, total - firstReading),
        dueMillis: dueMillis(device, Math.min(block + latest[place]!, lastMessage)),
      }
    },
  }
}
