import { describe, expect, onTestFinished, test } from 'vitest'
import { createClient, type Delivery, type Handler, type ProcessOptions, RejectError } from '../../src/client/client.ts'
import { waitFor } from '../hub-process.ts'
import { refuse, startContractServer } from './contract-server.ts'

type ContractServer = Awaited<ReturnType<typeof startContractServer>>

/** Processes in the background; `stop` waits for the end. */
function start(server: ContractServer, handler: Handler<Delivery>, options: ProcessOptions = {}) {
  const aborter = new AbortController()
  const consumer = createClient({ url: server.url, timeoutMillis: 300 }).consumer('c')
  const done = consumer.process(handler, { waitMillis: 0, ...options, signal: aborter.signal })
  done.catch(() => {})
  onTestFinished(() => aborter.abort())
  return {
    done,
    abort: () => aborter.abort(),
    stop(): Promise<void> {
      aborter.abort()
      return done
    },
  }
}

const longMillis = 30_000

describe('a consumer of the client', () => {
  test('calls every address of the contract', async () => {
    const server = await startContractServer(3, longMillis)
    const consumer = createClient({ url: server.url }).consumer('c')
    await consumer.create({ start: 'earliest' })
    await consumer.update({ maxDeliver: 7 })
    expect((await consumer.get()).ackWait).toBe('30000ms')
    const { deliveries } = await consumer.receive({ max: 3, waitMillis: 2500 })
    const [first, second, third] = deliveries.map(({ id }) => id) as [string, string, string]
    await consumer.extend([first])
    await consumer.acknowledge([first])
    await consumer.release([second], '10s')
    await consumer.reject([third], 'broken')
    await consumer.acknowledge({ upTo: third })
    await consumer.seek('earliest')
    await consumer.delete()
    expect(server.calls).toEqual([
      { action: 'PUT', body: { start: 'earliest' } },
      { action: 'PATCH', body: { maxDeliver: 7 } },
      { action: 'GET', body: {} },
      { action: 'receive', body: { max: 3, wait: '2.5s' } },
      { action: 'extend', body: { ids: [first] } },
      { action: 'acknowledge', body: { ids: [first] } },
      { action: 'release', body: { ids: [second], delay: '10s' } },
      { action: 'reject', body: { ids: [third], reason: 'broken' } },
      { action: 'acknowledge', body: { upTo: third } },
      { action: 'seek', body: { to: 'earliest' } },
      { action: 'DELETE', body: {} },
    ])
  })

  test('workers acknowledge everything once, with few requests', async () => {
    const server = await startContractServer(1000, longMillis)
    const seen: number[] = []
    const running = start(server, ({ reading }) => void seen.push(reading.ts), { concurrency: 4, batch: 50 })
    await waitFor(() => server.all('acknowledged'))
    await running.stop()
    expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i + 1))
    expect(server.calls.filter(({ action }) => action === 'acknowledge').length).toBeLessThan(200)
  })

  test('a throw releases, with its delay; a RejectError rejects, with its reason; both are told', async () => {
    const server = await startContractServer(3, longMillis)
    const errors: unknown[] = []
    const handler: Handler<Delivery> = ({ attempt, reading }) => {
      if (reading.ts === 1 && attempt === 1) throw Object.assign(new Error('busy'), { delay: '1s' })
      if (reading.ts === 2) throw new RejectError('broken')
    }
    const running = start(server, handler, { onError: (error) => errors.push(String(error)) })
    await waitFor(() => server.works.map(({ state }) => state).join() === 'acknowledged,rejected,acknowledged')
    await running.stop()
    expect(server.works.map(({ attempt }) => attempt)).toEqual([2, 1, 1])
    expect(server.calls).toContainEqual({ action: 'release', body: { ids: ['1-1'], delay: '1s' } })
    expect(server.calls).toContainEqual({ action: 'reject', body: { ids: ['2-1'], reason: 'broken' } })
    expect(errors.sort()).toEqual(['Error: busy', 'RejectError: broken'])
  })

  test('a hub that fails, hangs and asks for patience gets it; nothing is handled twice', async () => {
    let resumed = 0
    const begin = Date.now()
    const server = await startContractServer(20, longMillis, (action, call, response) => {
      if (call === 1) return refuse(response, 503, action === 'receive' ? { 'retry-after': '1' } : {})
      // Never an answer.
      if (call === 2 && action !== 'receive') return true
      if (call === 3) {
        response.destroy()
        return true
      }
      if (action === 'receive') resumed ||= Date.now()
      return false
    })
    const seen: number[] = []
    const running = start(server, ({ reading }) => void seen.push(reading.ts), { concurrency: 1, batch: 5 })
    await waitFor(() => server.all('acknowledged'))
    await running.stop()
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => i + 1))
    expect(resumed - begin).toBeGreaterThanOrEqual(990)
  })

  test('leases are extended while handlers run, also of what waits its turn', async () => {
    const ackWaitMillis = 1500
    const server = await startContractServer(3, ackWaitMillis)
    const handler: Handler<Delivery> = ({ reading }) =>
      // Far longer than the lease, counted in extensions: a busy machine takes its time.
      reading.ts === 1 && waitFor(() => server.calls.filter(({ action }) => action === 'extend').length >= 4)
    const running = start(server, handler, { concurrency: 1 })
    await waitFor(() => server.all('acknowledged'))
    await running.stop()
    expect(server.works.map(({ attempt }) => attempt)).toEqual([1, 1, 1])
    expect(server.calls.find(({ action }) => action === 'extend')?.body.ids).toEqual(['1-1', '2-1', '3-1'])
  })

  test('a lease that cannot be extended aborts the handler, and its result is not told', async () => {
    const server = await startContractServer(1, 300, (action, call, response) =>
      action === 'extend' && call <= 1 ? refuse(response, 409) : false,
    )
    const attempts: number[] = []
    const handler: Handler<Delivery> = async ({ attempt }, { signal }) => {
      attempts.push(attempt)
      if (attempt === 1) await waitFor(() => signal.aborted)
    }
    const running = start(server, handler, { concurrency: 1 })
    await waitFor(() => server.all('acknowledged'))
    await running.stop()
    expect(attempts[0]).toBe(1)
    expect(attempts.length).toBeGreaterThan(1)
    const acknowledged = server.calls.flatMap(({ action, body }) => (action === 'acknowledge' ? body.ids : []))
    expect(acknowledged).not.toContain('1-1')
  })

  test('a handler may extend by itself', async () => {
    const server = await startContractServer(1, longMillis)
    const running = start(server, (_delivery, { extend }) => extend())
    await waitFor(() => server.all('acknowledged'))
    await running.stop()
    expect(server.calls).toContainEqual({ action: 'extend', body: { ids: ['1-1'] } })
  })

  test('an acknowledgement is repeated until its lease ends, and then given up and told', async () => {
    const server = await startContractServer(1, 500, (action, _call, response) =>
      action === 'acknowledge' ? refuse(response, 503) : false,
    )
    const told: number[] = []
    const onError = (_error: unknown, deliveries: Delivery[]) => told.push(...deliveries.map(({ attempt }) => attempt))
    const running = start(server, () => {}, { onError, concurrency: 1 })
    await waitFor(() => told.length >= 2)
    await running.stop()
    expect(told.slice(0, 2)).toEqual([1, 2])
  })

  test('a stop lets the running handler finish, gives back what was not begun, and begins no more', async () => {
    const server = await startContractServer(10, longMillis)
    let open = () => {}
    const gate = new Promise<void>((resolve) => {
      open = resolve
    })
    const begun: number[] = []
    const handler: Handler<Delivery> = ({ reading }) => {
      begun.push(reading.ts)
      return reading.ts === 3 ? gate : undefined
    }
    const running = start(server, handler, { concurrency: 1, batch: 10 })
    await waitFor(() => begun.includes(3))
    running.abort()
    open()
    await running.done
    expect(begun).toEqual([1, 2, 3])
    const states = server.works.map(({ state }) => state)
    expect(states).toEqual([...Array(3).fill('acknowledged'), ...Array(7).fill('ready')])
  })

  test('a refusal for good ends all workers and is thrown', async () => {
    const server = await startContractServer(1, longMillis, (action, call, response) =>
      action === 'receive' && call > 4 ? refuse(response, 404) : false,
    )
    await expect(start(server, () => {}).done).rejects.toMatchObject({ name: 'ProblemError', status: 404 })
    expect(server.all('acknowledged')).toBe(true)
  })

  test('batches are handled as a whole', async () => {
    const server = await startContractServer(30, longMillis)
    const aborter = new AbortController()
    const sizes: number[] = []
    const options = { batch: 10, concurrency: 1, waitMillis: 0, signal: aborter.signal }
    const consumer = createClient({ url: server.url }).consumer('c')
    const done = consumer.processBatches((deliveries) => void sizes.push(deliveries.length), options)
    await waitFor(() => server.all('acknowledged'))
    aborter.abort()
    await done
    expect(sizes).toEqual([10, 10, 10])
  })
})
