import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, cpSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { countIn } from './database-file.ts'
import { push, send } from './delivery/hub-calls.ts'
import {
  type HubProcess,
  mainFile,
  type OnFinished,
  readWholeFeed,
  readWholeHistory,
  run,
  startHubProcess,
  temporaryFolder,
  testSharing,
  waitFor,
} from './hub-process.ts'
import { createRandom } from './random.ts'

const t0 = 1_700_000_000_000
const device = 'd'

/** What a disk did to the file of a hub that was killed. */
type Harm = (path: string) => void

/** Readings 0, 1, 2, … in commits of their own, acknowledged one by one. */
async function fill(count: number, batch: number, onFinished: OnFinished = onTestFinished): Promise<HubProcess> {
  const hub = await startHubProcess({}, onFinished)
  for (let n = 0; n < count; n += batch) {
    const readings = Array.from({ length: batch }, (_, i) => ({ ts: t0 + n + i, n: n + i, text: `reading ${n + i}` }))
    const answer = await fetch(`${hub.http}/v1/devices/${device}/telemetry`, {
      method: 'POST',
      body: JSON.stringify(readings),
    })
    expect(answer.status).toBe(200)
  }
  return hub
}

const isRight = ({ ts, values }: { ts: number; values: Record<string, unknown> }) =>
  ts === t0 + (values.n as number) && values.text === `reading ${values.n}`

const killedTest = testSharing(async (onFinished) => {
  const hub = await fill(200, 1, onFinished)
  await hub.kill('SIGKILL')
  return hub
})

describe('a disk that lost or changed what was written', () => {
  const harms: [string, Harm][] = [
    ['a torn', (path) => truncateSync(path, Math.floor(statSync(path).size * 0.6) + 17)],
    [
      'a garbled',
      (path) => {
        const bytes = readFileSync(path)
        const at = Math.floor(bytes.length / 2)
        for (let i = 0; i < 64; i++) bytes[at + i] = (bytes[at + i] as number) ^ 0x5a
        writeFileSync(path, bytes)
      },
    ],
  ]
  for (const [name, harm] of harms) {
    killedTest(
      `${name} write-ahead log: the hub starts with the readings before the damage, all of them right`,
      async ({ hub }) => {
        const folder = await temporaryFolder()
        cpSync(hub.folder, folder, { recursive: true })
        harm(join(folder, 'hub.db-wal'))
        const again = await startHubProcess({ folder })
        const feed = await readWholeFeed(again)
        expect(feed.length).toBeGreaterThan(10)
        expect(feed.length).toBeLessThan(200)
        // Nothing is missing in between, and history tells the same.
        expect(feed.map(({ values }) => values.n)).toEqual(feed.map((_, n) => n))
        expect(feed.every(isRight)).toBe(true)
        expect(await readWholeHistory(again, device)).toEqual(feed.map(({ ts, values }) => ({ ts, values })))
        const more = await fetch(`${again.http}/v1/devices/${device}/telemetry`, { method: 'POST', body: '{"n":1}' })
        expect(more.status).toBe(200)
      },
    )
  }

  test('a damaged page is a clear error, at the start or in the answer, and never a wrong row', async () => {
    // Enough to be sealed in blocks: history comes from these, the feed from the log.
    const hub = await fill(15_000, 5_000)
    expect(await hub.kill('SIGTERM')).toBe(0)
    const path = join(hub.folder, 'hub.db')
    const sound = `${path}.sound`
    copyFileSync(path, sound)
    const { integer } = createRandom(7)
    let noticed = 0
    for (let round = 0; round < 4; round++) {
      const bytes = readFileSync(sound)
      const page = integer(1, bytes.length / 4096 - 1)
      for (let i = 0; i < 200; i++) {
        const at = page * 4096 + integer(0, 4095)
        bytes[at] = (bytes[at] as number) ^ integer(1, 255)
      }
      writeFileSync(path, bytes)
      const again = await startHubProcess({ folder: hub.folder }).catch((error: Error) => error)
      if (again instanceof Error) {
        expect(again.message).toMatch(/telemetry-hub: .*restore a backup/)
        noticed++
        continue
      }
      for (const path of [`/v1/devices/${device}/telemetry?limit=10000`, '/v1/feed?after=earliest&limit=10000']) {
        let next: string | null = path
        while (next !== null) {
          const answer: Response = await fetch(again.http + next)
          const body = (await answer.json()) as {
            readings?: { ts: number; values: Record<string, unknown> }[]
            next?: string | null
            cursor?: string
            caughtUp?: boolean
          }
          if (!answer.ok) {
            expect(body).toMatchObject({ type: 'urn:telemetry-hub:problem:damaged', status: 500 })
            noticed++
            break
          }
          expect(body.readings?.every(isRight)).toBe(true)
          if (path.startsWith('/v1/feed')) next = body.caughtUp ? null : `/v1/feed?after=${body.cursor}&limit=10000`
          else next = body.next ? `${path}&cursor=${body.next}` : null
        }
      }
      const latest = await fetch(`${again.http}/v1/devices/${device}/telemetry/latest`)
      expect(await latest.json()).toMatchObject({ values: { n: { value: 14_999 }, text: { value: 'reading 14999' } } })
      await again.kill('SIGKILL')
      for (const rest of ['-wal', '-shm']) spawnSync('rm', ['-f', `${path}${rest}`])
    }
    expect(noticed).toBeGreaterThan(1)
    // What has no need of the file is not kept from its work by it.
    const { code, stderr } = await run(mainFile, ['config', '--data', hub.folder])
    expect([code, stderr]).toEqual([0, ''])
  }, 120_000)
})

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot && !process.env.CI)(isRoot ? 'a disk' : 'a disk (skipped: to mount one takes root)', () => {
  test('that cannot be written is a message with what to do; when it can, everything is there', async () => {
    const folder = join(await temporaryFolder(), 'disk')
    await mkdir(folder)
    const mount = (...args: string[]) =>
      expect(spawnSync('mount', [...args, folder], { encoding: 'utf8' }).stderr).toBe('')
    mount('-t', 'tmpfs', 'none')
    onTestFinished(() => void spawnSync('umount', ['-l', folder]))
    const hub = await startHubProcess({ folder })
    const post = (to: HubProcess) => fetch(`${to.http}/v1/devices/d/telemetry`, { method: 'POST', body: '{"n":1}' })
    expect((await post(hub)).status).toBe(200)
    await hub.kill('SIGKILL')
    mount('-o', 'remount,ro')
    const { code, stderr } = await run(mainFile, ['--data', folder, '--mqtt-port', '0', '--http-port', '0'])
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^telemetry-hub: cannot write to .*--data.*\n$/)])
    mount('-o', 'remount,rw')
    const again = await startHubProcess({ folder })
    expect((await post(again)).status).toBe(200)
    expect(await readWholeHistory(again, 'd')).toHaveLength(2)
  })
})

const hasFaketime = spawnSync('faketime', ['--version']).error === undefined
const withoutFaketime = 'no faketime on the PATH, so nobody has turned the clock'
if (!hasFaketime && !process.env.CI)
  console.warn(`\n*** SKIPPED: test/faults.test.ts, the clock: ${withoutFaketime} ***\n`)

/** A hub whose clock is turned by seconds, for it alone. */
async function fakeClock() {
  const folder = await temporaryFolder()
  const clock = join(folder, 'clock')
  const turn = (seconds: string) => writeFileSync(clock, seconds)
  turn('+0')
  const library = spawnSync('bash', ['-c', 'ls /usr/lib/*/faketime/libfaketime.so.1'], { encoding: 'utf8' })
  const variables = {
    LD_PRELOAD: library.stdout.trim(),
    FAKETIME_TIMESTAMP_FILE: clock,
    FAKETIME_NO_CACHE: '1',
    DONT_FAKE_MONOTONIC: '1',
  }
  const shell = Object.entries(variables)
    .map(([name, value]) => `export ${name}=${value}`)
    .join('; ')
  return { turn, start: () => startHubProcess({ folder: join(folder, 'data'), shell }) }
}

test.skipIf(!hasFaketime && !process.env.CI)(
  `a clock that is set: who waits is answered in time, and what is pending comes again neither late nor at once${hasFaketime ? '' : ` (skipped: ${withoutFaketime})`}`,
  async () => {
    const { start, turn } = await fakeClock()
    let hub = await start()
    await push(hub, 1)
    const receive = async (consumer: string, wait: string) =>
      (await send<{ deliveries: object[] }>(hub, 'POST', `consumers/${consumer}/receive`, { max: 10, wait })).deliveries
    for (const [name, ackWait] of [
      ['soon', '1s'],
      ['later', '1h'],
    ]) {
      await send(hub, 'PUT', `consumers/${name}`, { start: 'earliest', ackWait })
      expect(await receive(name as string, '0s')).toHaveLength(1)
    }
    const signal = AbortSignal.timeout(20_000)
    const { cursor } = await hub.get<{ cursor: string }>('/v1/feed?after=earliest')
    const poll = hub.get(`/v1/feed?after=${cursor}&wait=2`, { signal })
    turn('-3600')
    expect(await poll).toMatchObject({ readings: [] })
    expect(await receive('soon', '20s')).toHaveLength(1)
    turn('+7200')
    expect(await receive('later', '0s')).toEqual([])
    // It is kept when the delivery is, and the clock of the next start is behind that.
    await waitFor(async () => (await receive('soon', '20s')).length === 1)
    await hub.kill('SIGTERM')
    turn('-3600')
    hub = await start()
    expect(await receive('later', '0s')).toEqual([])
    expect(await receive('soon', '20s')).toHaveLength(1)
  },
  120_000,
)

test.skipIf(!hasFaketime && !process.env.CI)(
  `a clock that jumps back and forth: stamps of a device only grow, and nothing is lost${hasFaketime ? '' : ` (skipped: ${withoutFaketime})`}`,
  async () => {
    const { start, turn } = await fakeClock()
    const hub = await start()
    let n = 0
    for (const shift of ['+0', '-3600', '+7200', '-86400', '+60', '+0']) {
      turn(shift)
      for (let i = 0; i < 20; i++) {
        const answer = await fetch(`${hub.http}/v1/devices/d/telemetry`, { method: 'POST', body: `{"n":${n++}}` })
        expect(await answer.json()).toMatchObject({ accepted: 1 })
      }
    }
    const feed = await readWholeFeed(hub)
    expect(feed.map(({ values }) => values.n)).toEqual(Array.from({ length: n }, (_, i) => i))
    const stamps = feed.map(({ ts }) => ts)
    expect(stamps.every((ts, i) => i === 0 || ts > (stamps[i - 1] as number))).toBe(true)
    // The clock was turned for the hub, and not only for us.
    const received = feed.map((reading) => reading.received)
    expect(Math.max(...received) - Math.min(...received)).toBeGreaterThan(86_400_000)
    expect((await readWholeHistory(hub, 'd')).map(({ values }) => values.n)).toEqual(feed.map(({ values }) => values.n))
  },
)

test('a store thread that dies ends the hub with a message, and what was acknowledged is there', async () => {
  const hub = await startHubProcess({ node: ['--inspect=127.0.0.1:0'] })
  const post = () => fetch(`${hub.http}/v1/devices/d/telemetry`, { method: 'POST', body: '{"n":1}' })
  expect((await post()).status).toBe(200)
  const address = await waitFor(() => /Debugger listening on (ws:\S+)/.exec(hub.output())?.[1])
  const inspector = new WebSocket(address)
  onTestFinished(() => inspector.terminate())
  await once(inspector, 'open')
  const command = (method: string, params: object) => inspector.send(JSON.stringify({ id: 1, method, params }))
  inspector.on('message', (data) => {
    const { method, params } = JSON.parse(String(data))
    if (method !== 'NodeWorker.attachedToWorker') return
    const message = { id: 1, method: 'Runtime.evaluate', params: { expression: 'process.exit(9)' } }
    command('NodeWorker.sendMessageToWorker', { sessionId: params.sessionId, message: JSON.stringify(message) })
  })
  command('NodeWorker.enable', { waitForDebuggerOnStart: false })
  await waitFor(() => hub.output().includes('the thread store-writer has ended by itself'))
  // A process that is debugged waits for the debugger.
  inspector.terminate()
  await waitFor(() => hub.exitCode() !== null)
  expect(hub.exitCode()).toBe(1)
  expect(countIn(hub.folder)).toBe(1)
})
