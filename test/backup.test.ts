import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { copyFile, link, open, readFile, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { connectAsync } from 'mqtt'
import { generate } from 'mqtt-packet'
import { describe, expect, onTestFinished, test } from 'vitest'
import { backUp as backUpHere } from '../src/store/sqlite/backup.ts'
import { openDatabase } from '../src/store/sqlite/database.ts'
import { restore as restoreHere } from '../src/store/sqlite/restore.ts'
import { countIn } from './database-file.ts'
import { push, send, t0, upTo } from './delivery/hub-calls.ts'
import {
  type HubProcess,
  mainFile,
  rawClient,
  readFigures,
  readWholeFeed,
  readWholeHistory,
  run,
  simulatorFile,
  startHubProcess,
  temporaryFolder,
  testSharing,
  waitFor,
} from './hub-process.ts'

const backUp = (file: string, folder: string, ...more: string[]) =>
  run(mainFile, ['backup', file, '--data', folder, ...more])
const restore = (file: string, folder: string, ...more: string[]) =>
  run(mainFile, ['restore', file, '--data', folder, ...more])

async function done(running: ReturnType<typeof run>): Promise<string> {
  const { code, stdout, stderr } = await running
  expect(stderr).toBe('')
  expect(code).toBe(0)
  return stdout
}

/** A hub on what the backup of another one holds. */
async function startRestored(file: string): Promise<HubProcess> {
  const folder = await temporaryFolder()
  await done(restore(file, folder))
  return startHubProcess({ folder })
}

/** A hub that has ten readings of `d`, and a backup of it. */
const backedUpTest = testSharing(async (onFinished) => {
  const hub = await startHubProcess({}, onFinished)
  await push(hub, 10)
  const file = join(await temporaryFolder(onFinished), 'hub.backup')
  await done(backUp(file, hub.folder))
  return { ...hub, file }
})

const logEnd = async (hub: HubProcess) => (await readFigures(hub)).hub_log_end_offset as number

const valuesOf = async (hub: HubProcess, device: string) =>
  (await readWholeHistory(hub, device)).map(({ values }) => values.n)

interface Page {
  readings: { values: { n: number } }[]
  cursor: string
}
const feed = (hub: HubProcess, after: string) => hub.get<Page>(`/v1/feed?after=${after}&limit=5000`)

describe('backup', () => {
  test('under full load holds all that was acknowledged before it began, as of one moment', async () => {
    const hub = await startHubProcess()
    const file = join(await temporaryFolder(), 'hub.backup')
    const load = ['--devices', '20', '--total-rate', '2000', '--duration', '1h']
    const simulator = spawn(process.execPath, [simulatorFile, '--broker', hub.mqtt, ...load], { stdio: 'ignore' })
    onTestFinished(() => void simulator.kill('SIGKILL'))
    await send(hub, 'PUT', 'consumers/jobs', { start: 'earliest', filter: { device: 'mine' } })
    const client = await connectAsync(hub.mqtt)
    onTestFinished(() => client.endAsync(true).then(() => {}))
    await client.publishAsync('devices/mine/telemetry', 'no reading', { qos: 1 })
    let acknowledged = 0
    let running = true
    const publishing = (async () => {
      for (let n = 0; running; n++) {
        await client.publishAsync('devices/mine/telemetry', JSON.stringify({ ts: t0 + n, n }), {
          qos: 1,
        })
        acknowledged = n + 1
      }
    })()
    await waitFor(() => acknowledged > 100)
    await waitFor(async () => (await logEnd(hub)) > 4_000)
    await send(hub, 'POST', 'consumers/jobs/receive', { max: 40 })
    const { deliveries } = await send<{ deliveries: { id: string }[] }>(hub, 'POST', 'consumers/jobs/receive', {
      max: 10,
    })
    await send(hub, 'POST', 'consumers/jobs/acknowledge', { ids: deliveries.map(({ id }) => id) })

    for (const more of [[], ['--force']]) {
      const before = acknowledged
      expect(await done(backUp(file, hub.folder, ...more))).toMatch(
        /hub\.backup: [\d.]+ MB, sound, through reading \d+/,
      )
      // The load goes on meanwhile and after.
      await waitFor(() => acknowledged > before + 10)
    }
    const before = acknowledged
    const endBefore = await logEnd(hub)
    await done(backUp(file, hub.folder, '--force'))
    running = false
    await publishing
    simulator.kill('SIGKILL')
    await hub.kill('SIGKILL')

    const again = await startRestored(file)
    const own = await valuesOf(again, 'mine')
    expect(own.length).toBeGreaterThanOrEqual(before)
    expect(own).toEqual(upTo(own.length))
    const log = await readWholeFeed(again)
    expect(log.length).toBeGreaterThanOrEqual(endBefore - 1)
    const { devices } = await again.get<{ devices: { device: string }[] }>('/v1/devices?limit=1000')
    expect(devices).toHaveLength(21)
    for (const { device } of devices) {
      const logged = log.filter((reading) => reading.device === device).map(({ ts, values }) => ({ ts, values }))
      expect(await readWholeHistory(again, device)).toEqual(logged.sort((a, b) => a.ts - b.ts))
    }
    expect(await again.get('/v1/consumers/jobs')).toMatchObject({ acknowledged: 10, pending: 40 })
    const { entries } = await again.get<{ entries: object[] }>('/v1/quarantine')
    expect(entries).toHaveLength(1)
  }, 60_000)

  test('of a hub that was killed holds the commits that are in its WAL alone, and of one that stopped all', async () => {
    let hub = await startHubProcess()
    await push(hub, 100)
    const file = join(await temporaryFolder(), 'hub.backup')
    await hub.kill('SIGKILL')
    await done(backUp(file, hub.folder))
    expect(await valuesOf(await startRestored(file), 'd')).toEqual(upTo(100))
    // The original is none the worse for it.
    hub = await startHubProcess({ folder: hub.folder })
    expect(await valuesOf(hub, 'd')).toEqual(upTo(100))
    await push(hub, 100, 100)
    expect(await hub.kill('SIGTERM')).toBe(0)
    await done(backUp(file, hub.folder, '--force'))
    expect(await valuesOf(await startRestored(file), 'd')).toEqual(upTo(200))
    expect(countIn(hub.folder)).toBe(200)
  })

  backedUpTest(
    'is one file, readable by its owner alone, also when two are made at once and another one was killed',
    async ({ hub }) => {
      const folder = await temporaryFolder()
      const file = join(folder, 'hub.backup')
      await writeFile(`${file}.partial-1`, 'left by a killed one')
      await utimes(`${file}.partial-1`, 1, 1)
      await Promise.all([done(backUp(file, hub.folder, '--force')), done(backUp(file, hub.folder, '--force'))])
      expect(readdirSync(folder)).toEqual(['hub.backup'])
      expect(statSync(file).mode & 0o777).toBe(0o600)
    },
  )

  backedUpTest('that is ended by SIGTERM or SIGINT leaves nothing behind', async ({ hub }) => {
    const data = await largeDatabase(hub.file)
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const folder = await temporaryFolder()
      const file = join(folder, 'hub.backup')
      const child = spawn(process.execPath, [mainFile, 'backup', file, '--data', data])
      await waitFor(() => readdirSync(folder).some((name) => statSync(join(folder, name)).size > 0))
      child.kill(signal)
      await once(child, 'exit')
      expect(child.exitCode).toBe(1)
      expect(readdirSync(folder)).toEqual([])
    }
  })

  backedUpTest('never replaces a file unless told to, and says what to do where it can make none', async ({ hub }) => {
    const folder = await temporaryFolder()
    const file = join(folder, 'hub.backup')
    await writeFile(file, 'precious')
    const damaged = await folderOf(hub.file)
    await damage(damaged)
    await link(join(hub.folder, 'hub.db'), join(folder, 'other name'))
    const ownFiles = ['hub.db', 'hub.db-wal', 'hub.db-shm', 'hub.lock'].map((name) => join(hub.folder, name))
    const { signal } = new AbortController()
    for (const own of ownFiles) {
      const refused = backUpHere({ folder: hub.folder, file: own, force: true, signal })
      await expect(refused).rejects.toThrow(/belongs to the hub itself/)
    }
    const refusals: [ReturnType<typeof run>, RegExp][] = [
      [backUp(join(folder, 'other name'), hub.folder, '--force'), /belongs to the hub itself/],
      [backUp(file, hub.folder), /is there already: .*--force/],
      [backUp(join(folder, 'other'), await temporaryFolder()), /there is no database in .*--data/],
      [backUp(join(folder, 'no', 'other'), hub.folder), /no backup was made: .*no such file/],
      [backUp(join(folder, 'other'), damaged), /hub\.db is damaged/],
      [run(mainFile, ['backup', '--data', hub.folder]), /backup takes one FILE: see telemetry-hub --help/],
    ]
    for (const [refused, expected] of refusals) {
      const { code, stderr } = await refused
      expect(stderr).toMatch(expected)
      expect(stderr).toMatch(/^telemetry-hub: .*\n$/)
      expect(code).toBe(1)
    }
    expect(readdirSync(folder)).toEqual(['hub.backup', 'other name'])
    expect(await readFile(file, 'utf8')).toBe('precious')
    await done(backUp(file, hub.folder, '--force'))
    await done(restore(file, await temporaryFolder()))
  })
})

describe('restore', () => {
  backedUpTest(
    'readers go on by their cursors; one younger than the backup is refused, also when the log has passed it',
    async ({ hub }) => {
      await push(hub, 5, 0, 'readers')
      const { cursor: middle } = await feed(hub, 'latest')
      await push(hub, 5, 5, 'readers')
      const { cursor: end } = await feed(hub, 'latest')
      const file = join(await temporaryFolder(), 'hub.backup')
      await done(backUp(file, hub.folder))
      await push(hub, 5, 10, 'readers')
      const { cursor: undone } = await feed(hub, 'latest')
      const again = await startRestored(file)
      const numbers = async (after: string) => (await feed(again, after)).readings.map(({ values }) => values.n)
      const refused = async (cursor: string) => (await fetch(`${again.http}/v1/feed?after=${cursor}`)).status
      expect(await numbers(middle)).toEqual([5, 6, 7, 8, 9])
      expect(await numbers(end)).toEqual([])
      expect(await refused(undone)).toBe(409)
      await push(again, 20, 100)
      expect(await refused(undone)).toBe(409)
      expect(await numbers(end)).toEqual(upTo(20).map((n) => n + 100))
      const { cursor } = await feed(again, 'latest')

      // A backup of what was restored tells the cursors of both logs.
      await done(backUp(file, again.folder, '--force'))
      const third = await startRestored(file)
      for (const [place, count] of [
        [middle, 25],
        [end, 20],
        [cursor, 0],
      ] as const) {
        expect((await feed(third, place)).readings).toHaveLength(count)
      }
      expect((await fetch(`${third.http}/v1/feed?after=${undone}`)).status).toBe(409)
    },
  )

  backedUpTest(
    'consumers stand where they stood, and no identifier of before names a reading of after',
    async ({ hub }) => {
      await push(hub, 10, 0, 'job')
      await send(hub, 'PUT', 'consumers/jobs', { start: 'earliest', filter: { device: 'job' } })
      const receive = (from: HubProcess) =>
        send<{ deliveries: { id: string; reading: { values: { n: number } } }[] }>(
          from,
          'POST',
          'consumers/jobs/receive',
          {
            max: 100,
          },
        )
      const first = await receive(hub)
      await send(hub, 'POST', 'consumers/jobs/acknowledge', { upTo: first.deliveries[5]?.id })
      await waitFor(async () => (await hub.get<{ pending: number }>('/v1/consumers/jobs')).pending === 4)
      const message = { topic: 'devices/q/telemetry', payload: '{"n":1}', qos: 2, messageId: 7, retain: false } as const
      const socket = await rawClient(hub, 'half-way', { clean: false })
      socket.write(generate({ cmd: 'publish', dup: false, ...message }))
      expect((await once(socket, 'data'))[0].toString('hex')).toBe('50020007')
      const file = join(await temporaryFolder(), 'hub.backup')
      await done(backUp(file, hub.folder))
      await push(hub, 5, 10, 'job')
      const lost = await receive(hub)
      const again = await startRestored(file)
      await push(again, 5, 100, 'job')
      const fresh = await receive(again)
      expect(fresh.deliveries.map(({ reading }) => reading.values.n)).toEqual([100, 101, 102, 103, 104])
      const ids = lost.deliveries.map(({ id }) => id)
      expect(await send(again, 'POST', 'consumers/jobs/acknowledge', { ids })).toEqual({ count: 0, unknown: 5 })

      // A QoS 2 exchange that was open in the backup is completed, and its reading stored once.
      const resumed = await rawClient(again, 'half-way', { clean: false })
      resumed.write(generate({ cmd: 'publish', dup: true, ...message }))
      expect((await once(resumed, 'data'))[0].toString('hex')).toBe('50020007')
      resumed.write(Buffer.from([0x62, 2, 0, 7]))
      expect((await once(resumed, 'data'))[0].toString('hex')).toBe('70020007')
      expect(await valuesOf(again, 'q')).toEqual([1])
    },
  )

  backedUpTest(
    'refuses a folder in use, a folder with a database, and a file that is no sound database of this hub',
    async ({ hub }) => {
      const { file } = hub
      const folder = await temporaryFolder()
      const bad = async (name: string, spoil: (path: string) => void | Promise<void>) => {
        const path = join(folder, name)
        await writeFile(path, await readFile(file))
        await spoil(path)
        return path
      }
      const empty = await temporaryFolder()
      const refusals: [string, string, RegExp][] = [
        [file, hub.folder, /another hub is running on the folder/],
        [file, await folderOf(file), /holds a database: .*--force/],
        [join(folder, 'none'), empty, /there is no file/],
        [await bad('damaged', damageFile), empty, /damaged is damaged .*restore a sound backup/],
        [
          await bad('cut', async (path) => writeFile(path, (await readFile(path)).subarray(0, 20_000))),
          empty,
          /cut is damaged/,
        ],
        [await bad('text', (path) => writeFile(path, 'text'.repeat(1000))), empty, /text is damaged/],
        [await bad('newer', (path) => change(path, 'PRAGMA user_version = 999')), empty, /newer telemetry-hub/],
        [await bad('foreign', (path) => change(path, 'DROP TABLE hub')), empty, /is no database of telemetry-hub/],
      ]
      for (const [from, to, expected] of refusals) {
        const refused = restoreHere({ file: from, folder: to, force: false })
        await expect(refused).rejects.toThrow(expected)
        await expect(refused).rejects.toThrow(/^.*$/)
      }
      const { code, stderr } = await restore(file, hub.folder)
      expect([code, stderr]).toEqual([1, expect.stringMatching(/^telemetry-hub: another hub is running .*\n$/)])
      expect(readdirSync(empty)).toEqual(['hub.lock'])
      expect(await valuesOf(hub, 'd')).toEqual(upTo(10))
    },
  )

  backedUpTest(
    '--force puts the database of before aside, whole, so that it can be restored in its turn',
    async ({ hub: { file } }) => {
      const other = await startHubProcess()
      await push(other, 3, 500)
      // What it committed is in its WAL.
      await other.kill('SIGKILL')
      expect(statSync(join(other.folder, 'hub.db-wal')).size).toBeGreaterThan(0)
      const told = await done(restore(file, other.folder, '--force'))
      const aside = told.match(/the database of before is (.*)\n/)?.[1] as string
      expect(existsSync(join(other.folder, 'hub.db-wal'))).toBe(false)
      const hub = await startHubProcess({ folder: other.folder })
      expect(await valuesOf(hub, 'd')).toEqual(upTo(10))
      const third = await temporaryFolder()
      await done(restore(aside, third))
      expect(countIn(third)).toBe(3)
    },
  )
})

/** A folder that holds what a backup does, as a hub leaves it that has stopped. */
async function folderOf(backup: string): Promise<string> {
  const folder = await temporaryFolder()
  await copyFile(backup, join(folder, 'hub.db'))
  return folder
}

/** So large that a backup takes many steps. */
async function largeDatabase(backup: string): Promise<string> {
  const folder = await folderOf(backup)
  change(
    join(folder, 'hub.db'),
    `INSERT INTO quarantine (received, origin, device, reason, payload) VALUES (0, '', 'd', 'large', zeroblob(400000000))`,
  )
  return folder
}

function change(path: string, sql: string): void {
  const db = openDatabase(path)
  db.exec(sql)
  db.close()
}

const damage = (folder: string) => damageFile(join(folder, 'hub.db'))

/** Overwrites the middle third of a database, and leaves its head as it is. */
async function damageFile(path: string): Promise<void> {
  const file = await open(path, 'r+')
  const third = Math.floor((await file.stat()).size / 3)
  await file.write(Buffer.alloc(third, 0x5a), 0, third, third)
  await file.close()
}
