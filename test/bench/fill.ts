import type { Reading, Value } from '../../devices/reading.ts'
import { emptyDelivery, type Outcome } from '../../devices/sink.ts'
import { createDictionary } from '../../src/dictionary.ts'
import { openSqliteStore } from '../../src/store/sqlite/sqlite-store.ts'
import { createWriter } from '../../src/writer.ts'
import { now } from './clock.ts'

export interface Series {
  device: string
  /** The reading with a number; times must ascend. */
  reading(index: number): { ts: number; values: Record<string, Value> }
}

export interface Filled {
  readings: number
  values: number
  seconds: number
}

/** Readings of one delivery: as large as commits of a busy hub are. */
const deliveryReadings = 4000

/** Fills a store through the hub's own writer, all devices in turn, as their readings would arrive. */
export async function fillStore(
  folder: string,
  devices: readonly Series[],
  readingsPerDevice: number,
): Promise<Filled> {
  const store = await openSqliteStore({ folder, durability: 'os', readers: 1 })
  const writer = createWriter(store, createDictionary(store.opened), () => {})
  const begun = now()
  let readings: Reading[] = []
  let under: Promise<Outcome> | null = null

  async function flush(): Promise<void> {
    const delivery = { ...emptyDelivery('bench'), readings }
    readings = []
    const accepted = new Promise<Outcome>((resolve) => writer.accept(delivery, resolve))
    // One is made while another is written.
    await under
    under = accepted
  }

  for (let index = 0; index < readingsPerDevice; index++) {
    for (const { device, reading } of devices) {
      const { ts, values } = reading(index)
      readings.push({ device, ts, metrics: Object.keys(values), values: Object.values(values) })
      if (readings.length === deliveryReadings) await flush()
    }
  }
  if (readings.length > 0) await flush()
  await under
  const { figures } = writer
  await writer.close()
  await store.close()
  return { readings: figures.readings, values: figures.values, seconds: (now() - begun) / 1000 }
}
