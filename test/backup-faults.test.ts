import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openDatabase } from '../src/store/sqlite/database.ts'
import { countIn } from './database-file.ts'
import { push, upTo } from './delivery/hub-calls.ts'
import { type HubProcess, mainFile, readWholeHistory, run, startHubProcess, temporaryFolder } from './hub-process.ts'

const strace = spawnSync('strace', ['-V']).status === 0
if (!strace && process.env.CI) throw new Error('CI must have strace')
const isRoot = process.getuid?.() === 0

const valuesOf = async (hub: HubProcess) => (await readWholeHistory(hub, 'd')).map(({ values }) => values.n)

async function succeed(...args: string[]): Promise<void> {
  expect(await run(mainFile, args)).toMatchObject({ code: 0, stderr: '' })
}

describe.skipIf(!strace)('restore --force (skipped where there is no strace)', () => {
  test('cut off at any step leaves the old database whole or the new one; where a step fails nothing has changed', async () => {
    const hub = await startHubProcess()
    await push(hub, 3)
    // As a hub that is killed leaves it: what was committed is in the WAL alone.
    const old = join(await temporaryFolder(), 'old')
    cpSync(hub.folder, old, { recursive: true })
    await push(hub, 7, 3)
    const file = join(await temporaryFolder(), 'hub.backup')
    await succeed('backup', file, '--data', hub.folder)
    const calls = 'link,linkat,unlink,unlinkat,rename,renameat,renameat2'
    const restore = async (...inject: string[]) => {
      const folder = await temporaryFolder()
      cpSync(old, folder, { recursive: true })
      const trace = join(await temporaryFolder(), 'trace')
      const command = [process.execPath, mainFile, 'restore', file, '--data', folder, '--force']
      const options = ['-f', '-qq', '-o', trace, '-e', `trace=${calls}`, ...inject]
      const { status, stderr } = spawnSync('strace', [...options, ...command], { encoding: 'utf8' })
      return { folder, status, stderr, trace: readFileSync(trace, 'utf8').trim().split('\n') }
    }
    const { status, trace, folder } = await restore()
    expect([status, countIn(folder)]).toEqual([0, 10])
    // Each by its name, and how often that was called until then.
    const named = trace.map((line) => line.match(/ (\w+)\(/)?.[1])
    const steps = [...trace.keys()].filter((index) => /hub\.db(-wal)?"/.test(trace[index] as string))
    const at = (step: number, what: string) => [
      '-e',
      `inject=${named[step]}:${what}:when=${named.slice(0, step + 1).filter((name) => name === named[step]).length}`,
    ]
    expect(steps.length).toBeGreaterThan(2)
    for (const step of steps) {
      const cut = await restore(...at(step, 'signal=KILL'))
      expect(cut.status, trace[step]).not.toBe(0)
      expect([3, 10], trace[step]).toContain(countIn(cut.folder))
    }
    // The last of them makes the new one the database.
    const failed = await restore(...at(steps.at(-1) as number, 'error=EIO'))
    expect([failed.status, failed.stderr]).toEqual([1, expect.stringMatching(/nothing was restored/)])
    expect(readdirSync(failed.folder).sort()).toEqual(['hub.db', 'hub.lock'])
    expect(countIn(failed.folder)).toBe(3)
  }, 120_000)
})

describe('restore', () => {
  test('takes the file of a hub that runs as it is at one moment, whatever is committed meanwhile', async () => {
    const hub = await startHubProcess()
    await push(hub, 1000)
    const file = join(hub.folder, 'hub.db')
    const db = openDatabase(file)
    db.exec(
      `INSERT INTO quarantine (received, origin, device, reason, payload) VALUES (0, '', 'd', 'large', zeroblob(50000000))`,
    )
    await push(hub, 100, 1000)
    const folder = await temporaryFolder()
    const restoring = spawn(process.execPath, [mainFile, 'restore', file, '--data', folder])
    const ended = once(restoring, 'exit')
    const partial = join(folder, 'hub.db.partial')
    while (!statSync(partial, { throwIfNoEntry: false })?.size) await new Promise((resolve) => setImmediate(resolve))
    // In the middle of it what is in the WAL goes into the database, and the WAL begins anew, if that is possible.
    restoring.kill('SIGSTOP')
    db.exec('PRAGMA busy_timeout = 100; PRAGMA wal_checkpoint(TRUNCATE)')
    db.close()
    await push(hub, 100, 1100)
    restoring.kill('SIGCONT')
    expect(await ended).toEqual([0, null])
    const values = await valuesOf(await startHubProcess({ folder }))
    expect(values.length).toBeGreaterThanOrEqual(1100)
    expect(values).toEqual(upTo(values.length))
  }, 120_000)

  test('brings a file of the first version to this one', async () => {
    const folder = await temporaryFolder()
    const file = join(folder, 'first')
    const db = openDatabase(file)
    db.exec(firstVersion)
    db.close()
    const data = join(folder, 'data')
    await succeed('restore', file, '--data', data)
    const hub = await startHubProcess({ folder: data })
    await push(hub, 3)
    expect(await valuesOf(hub)).toEqual([0, 1, 2])
    expect(await hub.get('/v1/consumers')).toMatchObject({ consumers: [] })
  })
})

describe.skipIf(!isRoot && !process.env.CI)(isRoot ? 'a disk' : 'a disk (skipped: to mount one takes root)', () => {
  test('that a backup would fill is left alone, and the hub on it goes on', async () => {
    const folder = join(await temporaryFolder(), 'disk')
    await mkdir(folder)
    expect(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=60m', 'none', folder], { encoding: 'utf8' }).stderr).toBe('')
    onTestFinished(() => void spawnSync('umount', ['-l', folder]))
    const data = join(folder, 'data')
    const hub = await startHubProcess({ folder: data })
    await push(hub, 3)
    const { code, stderr } = await run(mainFile, ['backup', join(folder, 'hub.backup'), '--data', data])
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^telemetry-hub: .* MB free, and this takes .*\n$/)])
    expect(readdirSync(folder)).toEqual(['data'])
    await succeed('backup', join(await temporaryFolder(), 'hub.backup'), '--data', data)
    await push(hub, 3, 3)
  })
})

/** The tables as the first version made them. */
const firstVersion = `
  CREATE TABLE hub (key TEXT PRIMARY KEY, value ANY) STRICT;
  CREATE TABLE devices (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL,
    max_ts INTEGER, last_stamp INTEGER NOT NULL DEFAULT 0, sealed_through INTEGER NOT NULL DEFAULT 0,
    latest TEXT NOT NULL DEFAULT '[]'
  ) STRICT;
  CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
  CREATE TABLE log ("offset" INTEGER PRIMARY KEY, count INTEGER NOT NULL, received INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
  CREATE TABLE blocks (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, first_ts INTEGER NOT NULL, last_ts INTEGER NOT NULL,
    first_offset INTEGER NOT NULL, last_offset INTEGER NOT NULL, rows INTEGER NOT NULL, tier INTEGER NOT NULL,
    directory BLOB NOT NULL, data BLOB NOT NULL
  ) STRICT;
  CREATE INDEX blocks_by_time ON blocks (device, last_ts, first_ts);
  CREATE INDEX blocks_by_offset ON blocks (device, first_offset);
  CREATE INDEX blocks_by_age ON blocks (last_ts);
  CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT, received INTEGER NOT NULL, origin TEXT NOT NULL, device TEXT NOT NULL,
    reason TEXT NOT NULL, payload BLOB NOT NULL
  ) STRICT;
  CREATE TABLE handshakes (id INTEGER PRIMARY KEY, journal TEXT NOT NULL) STRICT;
  INSERT INTO hub (key, value) VALUES ('id', 'aaaaaaaaaa');
  PRAGMA user_version = 1;
`
