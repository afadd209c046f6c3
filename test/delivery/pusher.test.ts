import { Webhook } from 'standardwebhooks'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createAddressGuard } from '../../src/delivery/addresses.ts'
import { createPoster, type Post } from '../../src/delivery/post.ts'
import type { PushSettings } from '../../src/delivery/push-settings.ts'
import { createPusher, type Source } from '../../src/delivery/pusher.ts'
import { makeSecret } from '../../src/delivery/signature.ts'
import { createFakeClock } from './fake-clock.ts'
import { createMemorySource } from './memory-source.ts'
import { type Answer, type Received, startReceiver, statuses, until } from './receiver.ts'

const secret = makeSecret()

/** A pusher over real sockets, whose clock stands still but for `passing`. */
function open(url: string, source: Source, given: Partial<PushSettings> = {}) {
  const settings: PushSettings = {
    url,
    secrets: [secret],
    batch: 10,
    batchWaitMillis: 0,
    concurrency: 4,
    ratePerSecond: null,
    timeoutMillis: 20_000,
    disabled: null,
    ...given,
  }
  const clock = createFakeClock()
  const reasons: string[] = []
  const times: number[] = []
  const seen = { underWay: 0, most: 0 }
  const poster = createPoster({ ...settings, guard: createAddressGuard(['127.0.0.1']), version: '0' })
  const post: Post = async (message, signal) => {
    times.push(clock.now())
    seen.underWay++
    seen.most = Math.max(seen.most, seen.underWay)
    const attempt = await poster.post(message, signal)
    seen.underWay--
    return attempt
  }
  const onDisabled = (reason: string): void => void reasons.push(reason)
  const pusher = createPusher({ name: 'heating', source, settings, post, onDisabled, clock, random: () => 1 })
  onTestFinished(async () => {
    await pusher.stop()
    poster.close()
  })
  /** Lets time pass from timer to timer, whenever no request is under way, until the condition holds. */
  async function passing(condition: () => boolean): Promise<void> {
    while (!condition()) {
      await new Promise((resolve) => setTimeout(resolve, 1))
      if (!condition() && seen.underWay === 0 && clock.next !== null) clock.advance(clock.next)
    }
  }
  return { pusher, clock, reasons, times, seen, passing }
}

function numbersIn({ body }: Received): number[] {
  return (JSON.parse(body).data.readings as { n: number }[]).map(({ n }) => n)
}

function idsOf(received: Received[]): unknown[] {
  return received.map(({ headers }) => headers['webhook-id'])
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n)
/** Refuses what holds this reading. */
const allergicTo =
  (n: number): Answer =>
  (response, request) => {
    response.statusCode = numbersIn(request).includes(n) ? 500 : 200
    response.end()
  }

describe('the pusher', () => {
  test('posts every reading once, signed, and acknowledges it', async () => {
    const receiver = await startReceiver()
    const source = createMemorySource(95)
    const { pusher, clock } = open(receiver.url, source)
    pusher.start()
    await until(() => source.left === 0)
    expect(receiver.received.flatMap(numbersIn).sort((a, b) => a - b)).toEqual(upTo(95))
    expect(source.acknowledged).toHaveLength(95)
    expect(new Set(idsOf(receiver.received)).size).toBe(10)
    const first = receiver.received.find((request) => numbersIn(request).includes(0)) as Received
    expect(new Webhook(secret).verify(first.body, first.headers as Record<string, string>)).toEqual({
      type: 'readings',
      timestamp: new Date(clock.wall()).toISOString(),
      data: { consumer: 'heating', readings: upTo(10).map((n) => ({ n })) },
    })
    await until(() => pusher.figures().held === 0)
    expect(pusher.figures()).toEqual({ delivered: 95, failed: 0, state: 'healthy', nextAttemptAt: null, held: 0 })
  })

  test('tries a batch again with the same id and body, after a wait that doubles', async () => {
    const receiver = await startReceiver(statuses(500, 503, 502, 200))
    const source = createMemorySource(3)
    const { pusher, clock, times, passing } = open(receiver.url, source)
    pusher.start()
    await until(() => pusher.figures().failed === 1)
    expect(pusher.figures()).toMatchObject({ state: 'failing', nextAttemptAt: clock.wall() + 1000, delivered: 0 })
    await passing(() => source.left === 0)
    expect(times.map((at) => at - (times[0] as number))).toEqual([0, 1000, 3000, 7000])
    expect(new Set(idsOf(receiver.received)).size).toBe(1)
    expect(new Set(receiver.received.map(({ body }) => body)).size).toBe(1)
    for (const { body, headers } of receiver.received) {
      expect(new Webhook(secret).verify(body, headers as Record<string, string>)).toBeTruthy()
    }
    expect(pusher.figures()).toMatchObject({ state: 'healthy', delivered: 3, failed: 3 })
    expect(pusher.attempts().map(({ status }) => status)).toEqual([200, 502, 503, 500])
    expect(pusher.attempts()[3]).toMatchObject({ batch: 'batch_0', first: 'd0', last: 'd2', readings: 3 })
    expect(pusher.attempts()[3]?.error).toBe('answered 500')
  })

  test('throws nothing away in an outage, however long, and only probes meanwhile', async () => {
    let down = true
    const receiver = await startReceiver((response) => {
      response.statusCode = down ? 500 : 200
      response.end()
    })
    const source = createMemorySource(200, 3)
    const { pusher, seen, times, passing } = open(receiver.url, source)
    pusher.start()
    await passing(() => pusher.figures().state === 'open')
    await until(() => seen.underWay === 0)
    seen.most = 0
    const before = times.length
    await passing(() => pusher.figures().failed >= 40)
    expect(seen.most).toBe(1)
    expect(times.at(-1)! - times.at(-2)!).toBeGreaterThanOrEqual(300_000)
    expect(times.length - before).toBeLessThanOrEqual(40)
    expect(source.released).toEqual([])
    down = false
    await passing(() => source.left === 0)
    expect(source.acknowledged).toHaveLength(200)
    expect(source.deadLetters).toEqual([])
    expect(pusher.figures().state).toBe('healthy')
  })

  test.each([1, 4])('one batch that the receiver cannot take holds up nobody: concurrency %d', async (concurrency) => {
    const receiver = await startReceiver(allergicTo(7))
    const source = createMemorySource(40, 4)
    const { pusher, passing } = open(receiver.url, source, { batch: 1, concurrency })
    pusher.start()
    await until(() => source.acknowledged.length === 39)
    // With nothing else to send, this looks like an outage, until something else is sent.
    await passing(() => pusher.figures().state === 'open')
    expect(pusher.figures()).toMatchObject({ delivered: 39, held: 1 })
    for (let n = 40; source.deadLetters.length === 0; n++) {
      source.add(1)
      await passing(() => source.acknowledged.includes(`d${n}`))
      const refusals = pusher.figures().failed
      await passing(() => pusher.figures().failed > refusals || source.deadLetters.length > 0)
    }
    expect(source.deadLetters).toEqual(['d7'])
    const refused = receiver.received.filter((request) => numbersIn(request).includes(7))
    expect(new Set(idsOf(refused)).size).toBe(1)
    await passing(() => pusher.figures().state === 'healthy')
  })

  test('a batch that is refused while others are accepted is given back after as many attempts as it had left', async () => {
    const receiver = await startReceiver(allergicTo(0))
    const source = createMemorySource(10_000, 3)
    // So slow that some are accepted between any two attempts at the first.
    const { pusher, passing } = open(receiver.url, source, { batch: 1, concurrency: 1, ratePerSecond: 10 })
    pusher.start()
    await passing(() => source.deadLetters.length > 0)
    expect(source.deadLetters).toEqual(['d0'])
    expect(source.released).toEqual([{ ids: ['d0'], failures: 3, reason: 'answered 500' }])
    const refused = receiver.received.filter((request) => numbersIn(request).includes(0))
    expect(refused).toHaveLength(3)
    expect(new Set(idsOf(refused))).toEqual(new Set(['batch_0']))
  })

  test('ends for good at 410, gives everything back unblamed, and says so once', async () => {
    const receiver = await startReceiver(statuses(410))
    const source = createMemorySource(100)
    const { pusher, reasons, passing } = open(receiver.url, source)
    pusher.start()
    await until(() => reasons.length > 0)
    await pusher.stop()
    expect(reasons).toEqual(['the receiver answered 410 (Gone) at 2026-01-31T12:00:01.000Z'])
    expect(source.leased.size).toBe(0)
    expect(source.left).toBe(100)
    expect(source.released.every(({ failures }) => failures === 0)).toBe(true)
    expect(pusher.figures()).toMatchObject({ state: 'disabled', nextAttemptAt: null, held: 0 })
    const requests = receiver.received.length
    await passing(() => true)
    expect(receiver.received).toHaveLength(requests)
  })

  test('waits as long as the receiver asks for, all workers, and holds it against nobody', async () => {
    const receiver = await startReceiver((response, _request, number) => {
      if (number <= 4) response.writeHead(429, { 'retry-after': '100' })
      response.end()
    })
    const source = createMemorySource(100, 1)
    const { pusher, clock, times, passing } = open(receiver.url, source)
    pusher.start()
    await until(() => pusher.figures().failed > 0 && pusher.figures().state === 'failing')
    expect(pusher.figures().nextAttemptAt).toBe(clock.wall() + 100_000)
    await passing(() => source.left === 0)
    const later = times.filter((at) => at > (times[0] as number))
    expect(Math.min(...later) - (times[0] as number)).toBe(100_000)
    expect(source.acknowledged).toHaveLength(100)
    expect(source.released).toEqual([])
  })

  test('has no more requests under way than it may, and gives back what it stops', async () => {
    const receiver = await startReceiver(() => {})
    const source = createMemorySource(1000)
    const { pusher } = open(receiver.url, source, { concurrency: 3 })
    pusher.start()
    await until(() => receiver.received.length === 3)
    expect(pusher.figures().held).toBe(3)
    await Promise.all([pusher.stop(), pusher.stop()])
    expect(receiver.received).toHaveLength(3)
    expect(source.left).toBe(1000)
    expect(source.leased.size).toBe(0)
    expect(source.released.map(({ failures }) => failures)).toEqual([0, 0, 0])
    expect(pusher.figures()).toMatchObject({ held: 0, failed: 0 })
  })

  test('thirty-two requests at once are no reason for a warning', async () => {
    const warnings: Error[] = []
    const listen = (warning: Error): void => void warnings.push(warning)
    process.on('warning', listen)
    onTestFinished(() => void process.off('warning', listen))
    const receiver = await startReceiver(() => {})
    const { pusher } = open(receiver.url, createMemorySource(1000), { concurrency: 32 })
    pusher.start()
    await until(() => receiver.received.length === 32)
    await pusher.stop()
    expect(warnings).toEqual([])
  })

  test('holds few batches when most are refused', async () => {
    const receiver = await startReceiver((response, _request, number) => {
      response.statusCode = number % 4 === 0 ? 200 : 500
      response.end()
    })
    const source = createMemorySource(100_000, 1000)
    const { pusher, passing } = open(receiver.url, source, { concurrency: 2 })
    pusher.start()
    let most = 0
    await passing(() => {
      most = Math.max(most, pusher.figures().held)
      return receiver.received.length > 200
    })
    expect(most).toBeGreaterThan(2)
    expect(most).toBeLessThanOrEqual(2 + 8)
    expect(pusher.attempts()).toHaveLength(100)
    const numbers = pusher.attempts().map(({ at }) => at)
    expect(numbers).toEqual([...numbers].sort((a, b) => b - a))
  })

  test('extends the leases of what it holds, and drops what was taken away', async () => {
    let down = true
    const receiver = await startReceiver((response) => {
      response.statusCode = down ? 500 : 200
      response.end()
    })
    const source = createMemorySource(10)
    const { pusher, passing } = open(receiver.url, source)
    pusher.start()
    await passing(() => source.extended.filter((id) => id === 'd0').length >= 3)
    expect(pusher.figures().held).toBe(1)
    source.revoke()
    await passing(() => pusher.figures().held === 0)
    down = false
    expect(source.acknowledged).toEqual([])
    expect(source.released).toEqual([])
  })

  test('a store that is out of order for a while costs nothing and repeats nothing', async () => {
    const receiver = await startReceiver()
    const source = createMemorySource(50)
    source.fail = { receive: 3, acknowledge: 7, extend: 2 }
    const { pusher, passing } = open(receiver.url, source)
    pusher.start()
    await passing(() => source.left === 0)
    expect(receiver.received.flatMap(numbersIn).sort((a, b) => a - b)).toEqual(upTo(50))
    expect(source.acknowledged).toHaveLength(50)
  })

  test('stops also when nothing can be given back', async () => {
    const receiver = await startReceiver(() => {})
    const source = createMemorySource(50)
    source.fail = { release: 100 }
    const { pusher } = open(receiver.url, source)
    pusher.start()
    await until(() => receiver.received.length === 4)
    await pusher.stop()
    expect(pusher.figures().held).toBe(0)
  })

  test('keeps to the rate', async () => {
    const receiver = await startReceiver()
    const source = createMemorySource(20)
    const { pusher, times, passing } = open(receiver.url, source, { batch: 1, ratePerSecond: 2 })
    pusher.start()
    await passing(() => source.left === 0)
    for (let n = 1; n < times.length; n++) expect(times[n]! - times[n - 1]!).toBeGreaterThanOrEqual(499.999)
    expect(times.at(-1)! - times[0]!).toBeLessThanOrEqual(19 * 510)
  })

  test('sends a signed test in whatever state, also when the webhook is disabled', async () => {
    const receiver = await startReceiver()
    const source = createMemorySource(5)
    const { pusher, clock } = open(receiver.url, source, { disabled: 'gone' })
    pusher.start()
    expect(await pusher.test()).toMatchObject({ status: 200, error: null })
    const { body, headers } = receiver.received[0] as Received
    expect(new Webhook(secret).verify(body, headers as Record<string, string>)).toEqual({
      type: 'test',
      timestamp: new Date(clock.wall()).toISOString(),
      data: { consumer: 'heating' },
    })
    expect(pusher.attempts()).toMatchObject([{ first: null, last: null, readings: 0, status: 200 }])
    expect(pusher.figures().state).toBe('disabled')
    expect(receiver.received).toHaveLength(1)
    expect(source.left).toBe(5)
    await pusher.stop()
    expect(await pusher.test()).toMatchObject({ error: 'the hub stopped the attempt' })
  })

  test('survives a receiver that does everything wrong in turn', async () => {
    const receiver = await startReceiver((response, _request, number) => {
      if (number % 5 === 1) response.socket?.destroy()
      else if (number % 5 === 2) response.writeHead(301, { location: 'http://169.254.169.254/' }).end()
      else if (number % 5 === 3) {
        response.writeHead(200, { 'content-length': '100' })
        response.write('half', () => response.socket?.destroy())
      } else if (number % 5 === 4) response.writeHead(503, { 'retry-after': 'soon' }).end('x'.repeat(100_000))
      else response.end()
    })
    const source = createMemorySource(60, 1000)
    const { pusher, passing } = open(receiver.url, source)
    pusher.start()
    await passing(() => source.left === 0)
    expect(source.acknowledged).toHaveLength(60)
    expect(source.deadLetters).toEqual([])
  })
})
