import { expect, test } from 'vitest'
import { type HubProcess, hubTest, readFigures, startHubProcess, waitFor } from '../hub-process.ts'
import { createRandom } from '../random.ts'
import { push, send, t0, upTo } from './hub-calls.ts'

interface Delivery {
  id: string
  attempt: number
  reading: { device: string; ts: number; values: { n: number } }
}
interface Standing {
  lag: number
  pending: number
  redelivered: number
  deadLetters: number
  missed: number
  cursor: string
  oldestPendingMillis: number | null
}
interface Done {
  count: number
  unknown: number
}

async function withConsumer(settings: Record<string, unknown> = {}) {
  const hub = await startHubProcess()
  await send(hub, 'PUT', 'consumers/jobs', { start: 'earliest', ...settings })
  return { hub, ...callsOf(hub) }
}

/** One that gets what is pushed from now on. */
async function addConsumer(hub: HubProcess, name: string, settings: Record<string, unknown> = {}) {
  await send(hub, 'PUT', `consumers/${name}`, { start: 'latest', ...settings })
  return callsOf(hub, name)
}

function callsOf(hub: HubProcess, name = 'jobs') {
  const path = `consumers/${name}`
  return {
    receive: async (body: { max?: number; wait?: string } = {}) =>
      (await send<{ deliveries: Delivery[] }>(hub, 'POST', `${path}/receive`, body)).deliveries,
    acknowledge: (body: { ids: string[] } | { upTo: string }) => send<Done>(hub, 'POST', `${path}/acknowledge`, body),
    release: (ids: string[], delay?: string) =>
      send<Done>(hub, 'POST', `${path}/release`, delay === undefined ? { ids } : { ids, delay }),
    extend: (ids: string[]) => send<Done>(hub, 'POST', `${path}/extend`, { ids }),
    reject: (ids: string[], reason: string) => send<Done>(hub, 'POST', `${path}/reject`, { ids, reason }),
    standing: () => send<Standing>(hub, 'PATCH', path),
    path,
  }
}

const idsOf = (deliveries: Delivery[]) => deliveries.map(({ id }) => id)
const numbersOf = (deliveries: Delivery[]) => deliveries.map(({ reading }) => reading.values.n)

hubTest('delivers each reading once to one of several workers, in the order of the log', async ({ hub }) => {
  const { receive, acknowledge, standing } = await addConsumer(hub, 'shared')
  await push(hub, 1000, 0, 'shared')
  const got: number[] = []
  const worker = async () => {
    for (;;) {
      const deliveries = await receive({ max: 37 })
      if (deliveries.length === 0) return
      const numbers = numbersOf(deliveries)
      expect(numbers).toEqual(numbers.toSorted((a, b) => a - b))
      got.push(...numbers)
      expect(await acknowledge({ ids: idsOf(deliveries) })).toEqual({ count: deliveries.length, unknown: 0 })
    }
  }
  await Promise.all([worker(), worker(), worker(), worker()])
  expect(got.toSorted((a, b) => a - b)).toEqual(upTo(1000))
  expect(await standing()).toMatchObject({ lag: 0, pending: 0, redelivered: 0 })
})

hubTest(
  'what is not acknowledged comes again with the next attempt, and is a dead letter after the last',
  async ({ hub }) => {
    const { receive, path, standing } = await addConsumer(hub, 'again', { ackWait: '100ms', maxDeliver: 3 })
    await push(hub, 2, 0, 'again')
    for (const attempt of [1, 2, 3]) {
      const deliveries = await receive({ wait: '10s' })
      expect(deliveries.map((delivery) => delivery.attempt)).toEqual([attempt, attempt])
    }
    await waitFor(async () => (await receive()).length === 0 && (await standing()).deadLetters === 2)
    const { deadLetters } = await send<{ deadLetters: { id: string; attempts: number; reading: unknown }[] }>(
      hub,
      'GET',
      `${path}/dead-letters`,
    )
    expect(deadLetters.map(({ attempts }) => attempts)).toEqual([3, 3])
    expect(deadLetters[0]?.reading).toMatchObject({ device: 'again', ts: t0, values: { n: 0 } })
    await send(hub, 'DELETE', `${path}/dead-letters/${deadLetters[0]?.id}`)
    expect(await send(hub, 'POST', `${path}/dead-letters/redrive`)).toEqual({ redriven: 1, gone: 0 })
    const [again] = await receive({ wait: '10s' })
    expect(again).toMatchObject({ attempt: 1, reading: { values: { n: 1 } } })
    expect((await standing()).deadLetters).toBe(0)
  },
)

hubTest(
  'back-off holds a redelivery back, release asks for one, extend puts it off, reject gives up',
  async ({ hub }) => {
    const { receive, release, extend, reject, acknowledge, standing } = await addConsumer(hub, 'later', {
      ackWait: '300ms',
      backoff: ['1h'],
    })
    await push(hub, 4, 0, 'later')
    const [first, second, third, fourth] = idsOf(await receive()) as [string, string, string, string]
    expect(await release([first])).toEqual({ count: 1, unknown: 0 })
    expect(numbersOf(await receive())).toEqual([0])
    expect(await extend([first])).toEqual({ count: 0, unknown: 1 })
    expect(await extend([second])).toEqual({ count: 1, unknown: 0 })
    expect(await reject([third], 'no such room')).toEqual({ count: 1, unknown: 0 })
    expect(await acknowledge({ ids: [fourth, fourth, 'nonsense'] })).toEqual({ count: 1, unknown: 2 })
    // Within this time ackWait has passed; the back-off has not.
    expect(await receive({ wait: '500ms' })).toEqual([])
    expect(await standing()).toMatchObject({ pending: 2, deadLetters: 1, redelivered: 1 })
    // Acknowledged by whoever had it first: it is done.
    expect(await acknowledge({ ids: [first] })).toEqual({ count: 1, unknown: 0 })
  },
)

hubTest('acknowledges up to a delivery, and never delivers more than maxPending', async ({ hub }) => {
  const { receive, acknowledge, standing } = await addConsumer(hub, 'bounded', { maxPending: 50 })
  await push(hub, 200, 0, 'bounded')
  const deliveries = await receive({ max: 1000 })
  expect(numbersOf(deliveries)).toEqual(upTo(50))
  expect(await receive()).toEqual([])
  expect(await acknowledge({ upTo: deliveries[29]?.id as string })).toEqual({ count: 30, unknown: 0 })
  expect(await standing()).toMatchObject({ pending: 20, lag: 150 })
  expect(numbersOf(await receive({ max: 1000 }))).toEqual(upTo(30).map((n) => n + 50))
})

hubTest('a waiting worker hears of a reading, of a release and of an expired delivery', async ({ hub }) => {
  const { receive, release } = await addConsumer(hub, 'waiting', { ackWait: '200ms' })
  const first = receive({ wait: '30s' })
  await push(hub, 1, 0, 'waiting')
  const deliveries = await first
  expect(numbersOf(deliveries)).toEqual([0])
  const second = receive({ wait: '30s' })
  await release(idsOf(deliveries))
  expect((await second).map(({ attempt }) => attempt)).toEqual([2])
  expect((await receive({ wait: '30s' })).map(({ attempt }) => attempt)).toEqual([3])
})

hubTest('a filter leaves out devices and metrics, and what passes stays in order', async ({ hub }) => {
  const { receive, acknowledge } = await addConsumer(hub, 'filtered', { filter: { device: 'a*', metric: 'n' } })
  for (let i = 0; i < 20; i++) await push(hub, 1, i, i % 3 === 0 ? 'a1' : 'b')
  const deliveries = await receive()
  expect(numbersOf(deliveries)).toEqual([0, 3, 6, 9, 12, 15, 18])
  expect(await acknowledge({ upTo: deliveries[6]?.id as string })).toEqual({ count: 7, unknown: 0 })
})

test('seek replays from the earliest, a cursor and a time, and skips to the latest', async () => {
  const { hub, receive, acknowledge, path } = await withConsumer()
  await push(hub, 10)
  const { cursor } = await send<{ cursor: string }>(hub, 'GET', 'feed?after=latest')
  const between = Date.now() + 1
  await waitFor(() => Date.now() > between)
  await push(hub, 10, 10)
  const before = await receive()
  expect(numbersOf(before)).toEqual(upTo(20))
  for (const [to, expected] of [
    ['earliest', upTo(20)],
    [cursor, upTo(10).map((n) => n + 10)],
    [between, upTo(10).map((n) => n + 10)],
    [new Date(between).toISOString(), upTo(10).map((n) => n + 10)],
    ['latest', []],
  ] as const) {
    await send(hub, 'POST', `${path}/seek`, { to })
    expect(numbersOf(await receive())).toEqual(expected)
  }
  // Identifiers of before a seek mean nothing after it.
  expect(await acknowledge({ ids: idsOf(before) })).toEqual({ count: 0, unknown: 20 })
})

hubTest('changes its settings without losing its place, and is gone when it is deleted', async ({ hub }) => {
  const { receive, path, standing } = await addConsumer(hub, 'changing')
  await push(hub, 3, 0, 'changing')
  await receive({ max: 2 })
  expect(await send(hub, 'PATCH', path, { maxPending: 7 })).toMatchObject({ maxPending: 7, pending: 2, lag: 1 })
  expect(await send(hub, 'PUT', path, { ackWait: '5s' })).toMatchObject({ ackWait: '5s', maxPending: 1000, pending: 2 })
  await send(hub, 'DELETE', path)
  await expect(standing()).rejects.toMatchObject({ status: 404 })
  await expect(receive()).rejects.toMatchObject({ status: 404 })
  await send(hub, 'PUT', path, {})
  expect(await standing()).toMatchObject({ lag: 0, pending: 0 })
})

hubTest('says what is wrong with a request', async ({ hub }) => {
  const { path } = await addConsumer(hub, 'wrong')
  const problems: [method: string, path: string, body: unknown, status: number, detail: RegExp][] = [
    ['PUT', 'consumers/x', { ackWait: 'soon' }, 400, /"ackWait" is "soon": expected a duration/],
    ['PUT', 'consumers/x', { ackwait: '1s' }, 400, /"ackwait" is not known here/],
    ['PUT', 'consumers/x', { start: 'yesterday' }, 400, /no cursor/],
    ['PUT', 'consumers/x', { maxDeliver: 0 }, 400, /maxDeliver/],
    ['PUT', 'consumers/a b', {}, 400, /name/],
    ['POST', `${path}/receive`, { max: 0 }, 400, /max/],
    ['POST', `${path}/acknowledge`, {}, 400, /"ids" or by "upTo"/],
    ['POST', `${path}/acknowledge`, { ids: [], upTo: 'x' }, 400, /ids/],
    ['POST', `${path}/seek`, { to: '2026-13-01T00:00:00Z' }, 400, /RFC 3339/],
    ['POST', `${path}/dead-letters/redrive`, { ids: ['x'] }, 400, /dead letter/],
    ['DELETE', `${path}/dead-letters/7`, {}, 404, /no dead letter/],
    ['POST', 'consumers/nobody/receive', {}, 404, /no consumer "nobody"/],
  ]
  for (const [method, address, body, status, detail] of problems) {
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(`${hub.http}/v1/${address}`, { method, headers, body: JSON.stringify(body) })
    const problem = (await response.json()) as { detail: string }
    expect([response.status, problem.detail], `${method} ${address}`).toEqual([status, expect.stringMatching(detail)])
    expect(response.headers.get('content-type')).toBe('application/problem+json')
  }
})

test('readings that the log forgets before they are delivered are counted as missed', async () => {
  const { hub } = await withConsumer()
  await push(hub, 5000)
  await push(hub, 5000, 5000)
  await waitFor(async () => ((await readFigures(hub)).hub_unsealed_readings as number) < 5000)
  await hub.kill('SIGTERM')
  const again = await startHubProcess({ folder: hub.folder, args: ['--log-retention', '1ms'] })
  const { receive, standing } = callsOf(again)
  await waitFor(async () => {
    await receive({ max: 1 })
    return (await standing()).missed > 0
  })
  const { missed, lag, pending } = await standing()
  expect(missed + lag + pending).toBe(10_000)
  expect((await readFigures(again))['hub_consumer_missed_total{consumer="jobs"}']).toBeGreaterThan(0)
})

test('after a kill -9, what was acknowledged never comes again, and everything else does', async () => {
  const random = createRandom(7)
  let { hub, path } = await withConsumer({ ackWait: '2s', maxDeliver: 1000 })
  const answered = new Set<number>()
  const delivered = new Set<number>()
  const repeated: number[] = []
  let pushed = 0
  for (let round = 0; round < 3; round++) {
    const calls = callsOf(hub)
    let killed = false
    const failing = async (task: () => Promise<void>) => {
      while (!killed) await task().catch(() => {})
    }
    const pushing = failing(async () => {
      await push(hub, 20, pushed)
      pushed += 20
    })
    const workers = upTo(3).map(() =>
      failing(async () => {
        const deliveries = await calls.receive({ max: random.integer(1, 60), wait: '50ms' })
        for (const n of numbersOf(deliveries)) {
          if (answered.has(n)) repeated.push(n)
          delivered.add(n)
        }
        const some = deliveries.filter(() => random.next() < 0.7)
        if (some.length === 0) return
        await calls.acknowledge({ ids: idsOf(some) })
        for (const n of numbersOf(some)) answered.add(n)
      }),
    )
    const goal = answered.size + 300
    await waitFor(() => answered.size >= goal)
    killed = true
    await hub.kill('SIGKILL')
    await Promise.all([pushing, ...workers])
    hub = await startHubProcess({ folder: hub.folder })
  }
  const { receive, acknowledge } = callsOf(hub)
  await waitFor(async () => {
    const deliveries = await receive({ max: 1000 })
    for (const n of numbersOf(deliveries)) {
      if (answered.has(n)) repeated.push(n)
      delivered.add(n)
    }
    if (deliveries.length > 0) await acknowledge({ ids: idsOf(deliveries) })
    const { lag, pending } = await send<Standing>(hub, 'GET', path)
    return lag === 0 && pending === 0
  })
  expect(repeated).toEqual([])
  for (let n = 0; n < pushed; n++) expect(delivered.has(n), `${n} was never delivered`).toBe(true)
})

hubTest(
  'dead letters are counted once, and one that is pending again after a seek is delivered once',
  async ({ hub }) => {
    const { receive, reject, acknowledge, standing, path } = await addConsumer(hub, 'dead')
    const { cursor } = await send<{ cursor: string }>(hub, 'GET', 'feed?after=latest')
    await push(hub, 10, 0, 'dead')
    for (let round = 0; round < 3; round++) {
      await reject(idsOf(await receive()), 'not now')
      expect((await standing()).deadLetters).toBe(10)
      await send(hub, 'POST', `${path}/seek`, { to: cursor })
    }
    const first = await receive({ max: 6 })
    expect(await send(hub, 'POST', `${path}/dead-letters/redrive`)).toEqual({ redriven: 10, gone: 0 })
    expect((await standing()).deadLetters).toBe(0)
    const again = await receive()
    expect(numbersOf(again)).toEqual(upTo(10))
    expect(await acknowledge({ ids: idsOf(again) })).toEqual({ count: 10, unknown: 0 })
    expect(await acknowledge({ ids: idsOf(first) })).toEqual({ count: 0, unknown: 6 })
    expect(await standing()).toMatchObject({ pending: 0, lag: 0 })
  },
)

hubTest('what is due again comes in answers of a bounded size, however large its readings are', async ({ hub }) => {
  const { receive, release, acknowledge } = await addConsumer(hub, 'large')
  const text = 'x'.repeat(4000)
  const values = Object.fromEntries(upTo(100).map((i) => [`m${i}`, text]))
  for (let i = 0; i < 6; i++) await send(hub, 'POST', 'telemetry', [{ device: 'big', ts: t0 + i, ...values }])
  const ids: string[] = []
  for (let i = 0; i < 6; i++) ids.push(...idsOf(await receive({ max: 1000 })))
  expect(ids).toHaveLength(6)
  await release(ids)
  for (let i = 0; i < 6; i++) {
    const deliveries = await receive({ max: 1000 })
    expect(deliveries).toHaveLength(1)
    await acknowledge({ ids: idsOf(deliveries) })
  }
  expect(await receive()).toEqual([])
})

test('a consumer of the same name begins anew: no settings, no dead letters, no identifiers of the old one', async () => {
  const { hub, receive, reject, acknowledge, standing, path } = await withConsumer()
  await push(hub, 10)
  const old = await receive()
  await reject(idsOf(old).slice(0, 5), 'no')
  await send(hub, 'DELETE', path)
  await send(hub, 'PUT', path, { start: 'earliest', maxDeliver: 9 })
  expect(await standing()).toMatchObject({ deadLetters: 0, pending: 0, maxDeliver: 9 })
  await receive()
  expect(await acknowledge({ upTo: old[9]?.id as string })).toEqual({ count: 0, unknown: 1 })
  await hub.kill('SIGTERM')
  const again = await startHubProcess({ folder: hub.folder })
  expect(await callsOf(again).standing()).toMatchObject({ deadLetters: 0, pending: 10, maxDeliver: 9 })
})
