import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type Database from 'better-sqlite3'
import type { AuditEntry, KeptCredential } from '../store.ts'
import { createCredentialTable } from './credentials.ts'
import { openDatabase } from './database.ts'
import { lockFolder } from './folder-lock.ts'
import { checkCurrent, openForWriting, setSynchronous, type UnusableFile } from './schema.ts'

/** The credentials in the file of a hub, for commands: whoever may write to its folder is its administrator. */
export interface Administration {
  list(): KeptCredential[]
  save(credential: KeptCredential, by: AuditEntry): void
  remove(id: string, by: AuditEntry): boolean
  close(): void
}

/** Opens the folder beside a hub that runs on it, which hears of each change by itself, or where none does. */
export function openAdministration(folder: string): Administration {
  const path = join(folder, 'hub.db')
  const lock = tryLock(folder)
  const db = lock ? openForWriting(path, 'fsync') : openBeside(path)
  const { list, save, remove } = createCredentialTable(db)
  return {
    list,
    save,
    remove,
    close() {
      db.close()
      lock?.close()
    },
  }
}

function tryLock(folder: string): Database.Database | null {
  try {
    return lockFolder(folder)
  } catch (error) {
    if (existsSync(join(folder, 'hub.db')) && (error as UnusableFile).busy) return null
    throw error
  }
}

function openBeside(path: string): Database.Database {
  const db = openDatabase(path, { fileMustExist: true })
  db.exec('PRAGMA busy_timeout = 10000')
  setSynchronous(db, 'fsync')
  checkCurrent(db, path)
  return db
}
