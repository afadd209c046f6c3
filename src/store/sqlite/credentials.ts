import type Database from 'better-sqlite3'
import type { AuditEntry, KeptCredential } from '../store.ts'

/** Entries of the audit that are kept; the oldest go first. */
const maxAudited = 100_000

/** Who may come in, and what administrators did. Each change and its entry in the audit are one transaction. */
export function createCredentialTable(db: Database.Database) {
  const columns = 'id, kind, name, rules, hash, created, expires, last_used AS lastUsed'
  const list = db.prepare<[], KeptCredential>(`SELECT ${columns} FROM credentials ORDER BY created, id`)
  const put = db.prepare(
    'INSERT INTO credentials VALUES (@id, @kind, @name, @rules, @hash, @created, @expires, @lastUsed)',
  )
  const drop = db.prepare('DELETE FROM credentials WHERE id = ?')
  const use = db.prepare('UPDATE credentials SET last_used = ? WHERE id = ?')
  const note = db.prepare('INSERT INTO audit (at, actor, action, subject) VALUES (@at, @actor, @action, @subject)')
  const forget = db.prepare('DELETE FROM audit WHERE id <= ?')
  const page = db.prepare<[number, number], AuditEntry & { id: number }>(
    'SELECT id, at, actor, action, subject FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?',
  )

  function audit(entry: AuditEntry): void {
    forget.run(Number(note.run(entry).lastInsertRowid) - maxAudited)
  }

  function inTransaction<T>(task: () => T): T {
    return db.transaction(task)()
  }

  // Grows when another process commits.
  const dataVersion = db.prepare<[], number>('PRAGMA data_version').pluck()
  let version: number | undefined = 0

  return {
    /** All credentials, if another process may have changed them. */
    changedElsewhere(): KeptCredential[] | null {
      const before = version
      version = dataVersion.get()
      return version === before ? null : list.all()
    },
    list: (): KeptCredential[] => list.all(),
    save: (credential: KeptCredential, by: AuditEntry): void =>
      inTransaction(() => {
        put.run(credential)
        audit(by)
      }),
    remove: (id: string, by: AuditEntry): boolean =>
      inTransaction(() => {
        const found = drop.run(id).changes > 0
        if (found) audit(by)
        return found
      }),
    touch: (used: [id: string, at: number][]): void =>
      inTransaction(() => {
        for (const [id, at] of used) use.run(at, id)
      }),
    audit,
    audited: (before: number | null, limit: number) => page.all(before ?? Number.MAX_SAFE_INTEGER, limit),
  }
}
