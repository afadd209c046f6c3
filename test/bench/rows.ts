import { join } from 'node:path'
import type Database from 'better-sqlite3'
import { openDatabase } from '../../src/store/sqlite/database.ts'

export interface Rows {
  db: Database.Database
  insert(device: string, ts: number, values: Record<string, number>): void
}

/** The table that people begin with: a row of (series, ts, value) for each point, written as well as an afternoon allows. */
export function openRows(folder: string): Rows {
  const db: Database.Database = openDatabase(join(folder, 'telemetry.db'))
  db.exec('PRAGMA journal_mode = WAL')
  db.exec('PRAGMA synchronous = FULL')
  db.exec(`
    CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, device TEXT NOT NULL, metric TEXT NOT NULL, UNIQUE (device, metric));
    CREATE TABLE IF NOT EXISTS points (series INTEGER NOT NULL, ts INTEGER NOT NULL, value REAL, PRIMARY KEY (series, ts)) WITHOUT ROWID;
  `)
  const insertSeries = db.prepare('INSERT INTO series (device, metric) VALUES (?, ?)')
  const insertPoint = db.prepare('INSERT OR REPLACE INTO points (series, ts, value) VALUES (?, ?, ?)')
  const series = new Map<string, Map<string, number>>()

  function seriesOf(device: string, metric: string): number {
    let metrics = series.get(device)
    if (!metrics) {
      metrics = new Map()
      series.set(device, metrics)
    }
    let id = metrics.get(metric)
    if (id === undefined) {
      id = Number(insertSeries.run(device, metric).lastInsertRowid)
      metrics.set(metric, id)
    }
    return id
  }

  return {
    db,
    insert(device, ts, values) {
      for (const metric in values) insertPoint.run(seriesOf(device, metric), ts, values[metric])
    },
  }
}
