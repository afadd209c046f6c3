import type Database from 'better-sqlite3'
import type { Millis, Value } from '../../../devices/reading.ts'
import { Damaged, sumOfRow } from '../damage.ts'
import type { Batch, Offset } from '../store.ts'

/** A device as of its last sealing; the log tells the rest. */
export interface DeviceRow {
  id: number
  name: string
  firstSeen: Millis
  lastSeen: Millis
  maxTs: Millis | null
  lastStamp: Millis
  sealedThrough: Offset
  latest: LatestRow[]
}

export type LatestRow = [metric: number, ts: Millis, value: Value]

type KeptRow = Omit<DeviceRow, 'latest'> & { latest: string; crc: number | null }

/** Devices and metrics by number, as records and blocks name them. */
export function createDictionaryTable(db: Database.Database) {
  const columns =
    'id, name, first_seen AS firstSeen, last_seen AS lastSeen, max_ts AS maxTs, last_stamp AS lastStamp, sealed_through AS sealedThrough, latest, crc'
  const next = db.prepare<[id: number], KeptRow>(`SELECT ${columns} FROM devices WHERE id > ? ORDER BY id LIMIT 1`)
  const metrics = db.prepare<[], [id: number, name: string]>('SELECT id, name FROM metrics').raw()
  const insertMetric = db.prepare('INSERT INTO metrics (id, name) VALUES (?, ?)')
  const putDevice = db.prepare(
    `INSERT INTO devices (id, name, first_seen, last_seen, max_ts, last_stamp, sealed_through, latest, crc)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
     ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen, max_ts = excluded.max_ts, last_stamp = excluded.last_stamp,
       sealed_through = excluded.sealed_through, latest = excluded.latest, crc = excluded.crc`,
  )

  function put(device: DeviceRow): void {
    const fields = fieldsOf({ ...device, latest: JSON.stringify(device.latest) })
    putDevice.run(...fields, sumOfRow(fields))
  }

  return {
    put,
    add({ newDevices, newMetrics, received }: Batch): void {
      for (const [id, name] of newDevices) {
        const seen = {
          firstSeen: received,
          lastSeen: received,
          maxTs: null,
          lastStamp: 0,
          sealedThrough: 0,
          latest: [],
        }
        put({ id, name, ...seen })
      }
      for (const [id, name] of newMetrics) insertMetric.run(id, name)
    },
    /** Throws `Damaged` when one is not what was written. */
    *devices(): Generator<DeviceRow> {
      for (let found = next.get(-1); found; found = next.get(found.id)) {
        const { crc, ...row } = found
        if (crc !== null && crc !== sumOfRow(fieldsOf(row))) {
          throw new Damaged(`the checksum of device ${row.id} is wrong`)
        }
        yield { ...row, latest: JSON.parse(row.latest) as LatestRow[] }
      }
    },
    metrics: () => metrics.all(),
  }
}

export type DictionaryTable = ReturnType<typeof createDictionaryTable>

function fieldsOf(row: Omit<KeptRow, 'crc'>) {
  const { id, name, firstSeen, lastSeen, maxTs, lastStamp, sealedThrough, latest } = row
  return [id, name, firstSeen, lastSeen, maxTs, lastStamp, sealedThrough, latest] as const
}
