import type Database from 'better-sqlite3'
import type { HandshakeEntry, OpenHandshake } from '../store.ts'

/** Rows of the journal after which it is written anew as what is still open. */
const maxJournalRows = 2048

/**
 * Which inbound QoS 2 packet identifiers are in use, durable as a journal: a row an exchange, written and deleted
 * again, would cost more than the reading that it protects.
 */
export function createHandshakes(db: Database.Database) {
  const insert = db.prepare('INSERT INTO handshakes (journal) VALUES (?)')
  const clear = db.prepare('DELETE FROM handshakes')
  const open = new Map<string, Map<number, number>>()
  let rows = 0

  for (const journal of db.prepare<[], string>('SELECT journal FROM handshakes ORDER BY id').pluck().all()) {
    for (const entry of JSON.parse(journal) as HandshakeEntry[]) apply(entry)
    rows++
  }

  function apply([client, packetId, digest]: HandshakeEntry): void {
    if (packetId === 0) open.delete(client)
    else if (packetId > 0) openOf(client).set(packetId, digest)
    else {
      const ids = open.get(client)
      ids?.delete(-packetId)
      if (ids?.size === 0) open.delete(client)
    }
  }

  function openOf(client: string): Map<number, number> {
    const known = open.get(client)
    if (known) return known
    const ids = new Map<number, number>()
    open.set(client, ids)
    return ids
  }

  return {
    /** Inside the transaction of a commit. */
    write(entries: HandshakeEntry[]): void {
      if (entries.length === 0) return
      for (const entry of entries) apply(entry)
      if (++rows <= maxJournalRows) {
        insert.run(JSON.stringify(entries))
        return
      }
      clear.run()
      insert.run(
        JSON.stringify(
          all().flatMap(([client, ids]) => ids.map(([id, digest]): HandshakeEntry => [client, id, digest])),
        ),
      )
      rows = 1
    },
    all,
  }

  function all(): [client: string, open: OpenHandshake[]][] {
    return Array.from(open, ([client, ids]) => [client, [...ids]])
  }
}
