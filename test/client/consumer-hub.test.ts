import { expect, test } from 'vitest'
import { createClient, RejectError } from '../../src/client/client.ts'
import { push, send, upTo } from '../delivery/hub-calls.ts'
import { startHubProcess, waitFor } from '../hub-process.ts'

test('process works every reading off a real hub, also when that is killed on the way', async () => {
  const hub = await startHubProcess()
  const consumer = createClient({ url: hub.http }).consumer('jobs')
  await consumer.create({ start: 'earliest', ackWait: '2s', maxDeliver: 100 })
  await push(hub, 500)
  const done: number[] = []
  let failed = 0
  const stop = new AbortController()
  const processing = consumer.process(
    async ({ reading, attempt }) => {
      const n = reading.values.n as number
      if (n === 13) throw new RejectError('unlucky')
      if (n % 50 === 7 && attempt === 1) {
        failed++
        throw new Error('not today')
      }
      done.push(n)
    },
    { concurrency: 4, batch: 20, signal: stop.signal, onError: () => {} },
  )
  await waitFor(() => done.length > 100)
  await hub.kill('SIGKILL')
  const again = await startHubProcess({ folder: hub.folder, mqttPort: hub.mqttPort, httpPort: hub.httpPort })
  await push(again, 500, 500)
  await waitFor(async () => {
    const { lag, pending } = await send<{ lag: number; pending: number }>(again, 'GET', 'consumers/jobs')
    return lag === 0 && pending === 0
  })
  stop.abort()
  await processing
  expect(failed).toBeGreaterThanOrEqual(20)
  expect([...new Set(done)].toSorted((a, b) => a - b)).toEqual(upTo(1000).filter((n) => n !== 13))
  expect(await consumer.get()).toMatchObject({ deadLetters: 1 })
})
