import { chmodSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type Database from 'better-sqlite3'
import { openDatabase } from './database.ts'
import { UnusableFile } from './schema.ts'

/**
 * Keeps everybody else out of a folder until it is closed. A lock of SQLite's own: the system lets go of it when the
 * process dies, however it dies.
 */
export function lockFolder(folder: string): Database.Database {
  let lock: Database.Database | null = null
  try {
    // For the hub alone: it keeps what its owner entrusted to it, the secrets of webhooks too. A folder that was there
    // belongs to who made it.
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const path = join(folder, 'hub.lock')
    lock = openDatabase(path, { timeout: 0 })
    chmodSync(path, 0o600)
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    lock?.close()
    const { code, message } = error as Error & { code?: string }
    throw new UnusableFile(
      code === 'SQLITE_BUSY'
        ? `another hub is running on the folder ${folder}: stop it, or choose another folder with --data`
        : `cannot write to the folder ${folder} (${message}): choose another one with --data, or change its permissions`,
      code === 'SQLITE_BUSY',
    )
  }
}
