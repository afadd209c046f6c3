import Database from 'better-sqlite3'

/** Databases, and with each its statements. */
const kept = new Set<object>()

/**
 * Opens a file such that nothing made of it is garbage before its thread ends: from Node 24.19 on, better-sqlite3 12 ends
 * the process when a collection outside of JavaScript finds a database, a statement or an iterator that is used up
 * (`RemoveEnvironmentCleanupHook` without an environment). So a text is prepared once, and always used in the same way;
 * what iterates and what makes statements of its own, such as `pragma`, is not used.
 */
export function openDatabase(path: string, options: Database.Options = {}): Database.Database {
  const db = new Database(path, options)
  kept.add(db)
  const statements = new Map<string, Database.Statement>()
  const prepare = db.prepare.bind(db)
  db.prepare = ((text: string) => {
    let statement = statements.get(text)
    if (!statement) {
      statement = prepare(text)
      statements.set(text, statement)
    }
    return statement
  }) as typeof db.prepare
  keepBackups(db)
  return db
}

/** An online backup makes an object that only better-sqlite3 has hold of, and only until it ends. */
function keepBackups(db: Database.Database): void {
  for (const symbol of Object.getOwnPropertySymbols(db)) {
    const native = Reflect.get(db, symbol)
    if (typeof native?.backup !== 'function') continue
    const { backup } = native
    native.backup = (...given: unknown[]) => {
      const made = backup.apply(native, given)
      kept.add(made)
      return made
    }
  }
}

/** Whether all of the write-ahead log is in the database now, and synced there; not while somebody reads an older state. */
export function checkpoint(db: Database.Database, mode: 'FULL' | 'TRUNCATE'): boolean {
  return db.prepare<[], number>(`PRAGMA wal_checkpoint(${mode})`).pluck().get() === 0
}
