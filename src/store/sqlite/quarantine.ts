import type Database from 'better-sqlite3'
import type { Quarantined, Unreadable } from '../store.ts'

const quarantineLimits = {
  maxItems: 10_000,
  /** Of all payloads and origins together. */
  maxBytes: 64 * 1024 * 1024,
} as const

type Row = Omit<Quarantined, 'payload'> & { payload: Buffer }

/** What could not be read, kept for a person; beyond the limits the oldest go, and are counted. */
export function createQuarantine(db: Database.Database) {
  const insert = db.prepare('INSERT INTO quarantine (received, origin, device, reason, payload) VALUES (?, ?, ?, ?, ?)')
  const oldest = db.prepare<[], { id: number; size: number }>(
    'SELECT id, length(payload) + length(origin) AS size FROM quarantine ORDER BY id LIMIT 1',
  )
  const remove = db.prepare('DELETE FROM quarantine WHERE id = ?')
  const columns = 'id, received, origin, device, reason, payload'
  const one = db.prepare<[number], Row>(`SELECT ${columns} FROM quarantine WHERE id = ?`)
  const page = db.prepare<[number, number], Row>(
    `SELECT ${columns} FROM quarantine WHERE id < ? ORDER BY id DESC LIMIT ?`,
  )
  const totals = db
    .prepare<[], { items: number; bytes: number }>(
      'SELECT count(*) AS items, coalesce(sum(length(payload) + length(origin)), 0) AS bytes FROM quarantine',
    )
    .get() as { items: number; bytes: number }
  let { items, bytes } = totals
  let dropped = 0

  function drop(id: number, size: number): void {
    remove.run(id)
    items--
    bytes -= size
  }

  return {
    /** Inside the transaction of a commit. */
    write(unreadable: Unreadable[]): void {
      for (const { received, origin, device, reason, payload } of unreadable) {
        const content = Buffer.from(payload as string)
        insert.run(received, origin, device, reason, content)
        items++
        bytes += content.length + origin.length
      }
      while (items > quarantineLimits.maxItems || bytes > quarantineLimits.maxBytes) {
        const first = oldest.get()
        if (!first) break
        drop(first.id, first.size)
        dropped++
      }
    },
    list: (before: number | null, limit: number): Quarantined[] => page.all(before ?? Number.MAX_SAFE_INTEGER, limit),
    get: (id: number): Quarantined | null => one.get(id) ?? null,
    remove(id: number): boolean {
      const found = one.get(id)
      if (found) drop(id, found.payload.length + found.origin.length)
      return found !== undefined
    },
    figures: () => ({ quarantined: items, quarantineDropped: dropped }),
  }
}
