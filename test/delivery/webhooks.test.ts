import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { expect, onTestFinished, test } from 'vitest'
import { hubTestWith, startHubProcess, waitFor } from '../hub-process.ts'
import { push, send, upTo } from './hub-calls.ts'

const allowed = ['--webhook-allow', '127.0.0.0/8']
const allowedTest = hubTestWith(...allowed)

interface Request {
  id: string
  numbers: number[]
}

/** A receiver that checks every signature; `answer` decides what it says. */
async function startReceiver(answer: (request: Request, response: ServerResponse) => void) {
  const requests: Request[] = []
  const secrets: string[] = []
  let forged = 0
  const server = createServer(async (request: IncomingMessage, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    const headers = request.headers as Record<string, string>
    try {
      const { data } = new Webhook(secrets[0] as string).verify(body, headers) as {
        data: { readings?: { values: { n: number } }[] }
      }
      const received = {
        id: headers['webhook-id'] as string,
        numbers: (data.readings ?? []).map(({ values }) => values.n),
      }
      requests.push(received)
      answer(received, response)
    } catch {
      forged++
      response.writeHead(401).end()
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}/hook`, requests, secrets, forged: () => forged }
}

const ok = (_request: Request, response: ServerResponse) => void response.writeHead(204).end()
interface Standing {
  lag: number
  pending: number
  deadLetters: number
  redelivered: number
  push: { state: string; delivered: number; failed: number; disabled: string | null } | null
}

allowedTest('a webhook gets every reading once, signed, and its secret is shown this once', async ({ hub }) => {
  const receiver = await startReceiver(ok)
  const hook = { url: receiver.url, batch: 50, batchWait: '10ms' }
  const created = await send<{ secret: string }>(hub, 'PUT', 'consumers/each', { start: 'latest', push: hook })
  receiver.secrets.push(created.secret)
  await push(hub, 1000, 0, 'each')
  await waitFor(() => receiver.requests.flatMap(({ numbers }) => numbers).length >= 1000)
  expect(receiver.requests.flatMap(({ numbers }) => numbers).toSorted((a, b) => a - b)).toEqual(upTo(1000))
  expect(receiver.forged()).toBe(0)
  await waitFor(async () => (await send<Standing>(hub, 'GET', 'consumers/each')).pending === 0)
  const shown = await send<Standing>(hub, 'GET', 'consumers/each')
  expect(shown).toMatchObject({ lag: 0, deadLetters: 0, push: { state: 'healthy', delivered: 1000, failed: 0 } })
  expect(JSON.stringify(shown)).not.toContain(created.secret.slice(6))
  const { attempts } = await send<{ attempts: { status: number; error: null }[] }>(
    hub,
    'GET',
    'consumers/each/attempts',
  )
  expect(attempts.length).toBeGreaterThanOrEqual(20)
  expect(attempts.every(({ status, error }) => status === 204 && error === null)).toBe(true)
  expect(await send(hub, 'POST', 'consumers/each/test')).toMatchObject({ status: 204, error: null })
  await expect(send(hub, 'POST', 'consumers/each/receive')).rejects.toMatchObject({ status: 409 })
})

test('what a receiver refuses comes again under the same webhook-id, also after a kill -9 of the hub', async () => {
  let healthy = false
  const receiver = await startReceiver((_request, response) => void response.writeHead(healthy ? 200 : 503).end())
  const hub = await startHubProcess({ args: allowed })
  const hook = { url: receiver.url, batchWait: '0', concurrency: 1 }
  const { secret } = await send<{ secret: string }>(hub, 'PUT', 'consumers/hook', {
    start: 'earliest',
    ackWait: '1s',
    push: hook,
  })
  receiver.secrets.push(secret)
  await push(hub, 10)
  await waitFor(() => receiver.requests.length >= 2)
  expect(receiver.requests[1]).toEqual(receiver.requests[0])
  await hub.kill('SIGKILL')
  healthy = true
  const again = await startHubProcess({ folder: hub.folder, args: allowed })
  await waitFor(async () => (await send<Standing>(again, 'GET', 'consumers/hook')).push?.delivered === 10)
  expect(receiver.requests.at(-1)).toEqual(receiver.requests[0])
  expect(await send(again, 'GET', 'consumers/hook')).toMatchObject({ deadLetters: 0, pending: 0, lag: 0 })
})

test('410 disables the webhook until its owner sets it again; readings wait in the log', async () => {
  let gone = true
  const receiver = await startReceiver((_request, response) => void response.writeHead(gone ? 410 : 200).end())
  const hub = await startHubProcess({ args: allowed })
  const hook = { url: receiver.url, batchWait: '0' }
  const { secret } = await send<{ secret: string }>(hub, 'PUT', 'consumers/hook', { start: 'earliest', push: hook })
  receiver.secrets.push(secret)
  await push(hub, 5)
  await waitFor(async () => (await send<Standing>(hub, 'GET', 'consumers/hook')).push?.state === 'disabled')
  await hub.kill('SIGTERM')
  const again = await startHubProcess({ folder: hub.folder, args: allowed })
  const before = receiver.requests.length
  const standing = await send<Standing>(again, 'GET', 'consumers/hook')
  expect(standing.push?.disabled).toMatch(/410/)
  gone = false
  expect(receiver.requests.length).toBe(before)
  // The secret stays, as nobody gave another one.
  await send(again, 'PATCH', 'consumers/hook', { push: { url: receiver.url } })
  await waitFor(async () => (await send<Standing>(again, 'GET', 'consumers/hook')).push?.delivered === 5)
  expect(receiver.forged()).toBe(0)
})

test('private addresses are refused unless they are allowed, and the answer says by which setting', async () => {
  const hub = await startHubProcess()
  for (const host of ['127.0.0.1', '10.1.2.3', '[::1]', '[::ffff:127.0.0.1]', '169.254.169.254', '2130706433']) {
    const refused = send(hub, 'PUT', 'consumers/hook', { push: { url: `http://${host}/` } })
    await expect(refused, host).rejects.toMatchObject({ status: 400 })
  }
  // A name is looked up with every request.
  await send(hub, 'PUT', 'consumers/hook', { start: 'earliest', push: { url: 'http://localhost:9/', batchWait: '0' } })
  expect(await send(hub, 'POST', 'consumers/hook/test')).toMatchObject({
    status: null,
    error: expect.stringMatching(/is loopback.*--webhook-allow/),
  })
})

allowedTest('switched ten times between push and pull under load, a consumer loses nothing', async ({ hub }) => {
  const receiver = await startReceiver(ok)
  const hook = {
    url: receiver.url,
    batch: 20,
    batchWait: '5ms',
    secret: `whsec_${Buffer.alloc(32, 7).toString('base64')}`,
  }
  receiver.secrets.push(hook.secret)
  await send(hub, 'PUT', 'consumers/both', { start: 'latest', ackWait: '5s' })
  let pushed = 0
  let pushing = true
  const load = (async () => {
    while (pushing) {
      await push(hub, 50, pushed, 'both')
      pushed += 50
    }
  })()
  const pulled: number[] = []
  let outstanding = 0
  const count = () => pulled.length + receiver.requests.reduce((sum, { numbers }) => sum + numbers.length, 0)
  for (let round = 0; round < 5; round++) {
    const goal = count() + 300
    await send(hub, 'PATCH', 'consumers/both', { push: hook })
    await waitFor(() => count() >= goal)
    await send(hub, 'PATCH', 'consumers/both', { push: null })
    const pullGoal = pulled.length + 200
    while (pulled.length < pullGoal) {
      const { deliveries } = await send<{ deliveries: { id: string; reading: { values: { n: number } } }[] }>(
        hub,
        'POST',
        'consumers/both/receive',
        { max: 60, wait: '1s' },
      )
      pulled.push(...deliveries.map(({ reading }) => reading.values.n))
      // Some stay outstanding when the mode changes: only those may come twice.
      const ids = deliveries.slice(3).map(({ id }) => id)
      outstanding += Math.min(3, deliveries.length)
      if (ids.length > 0) await send(hub, 'POST', 'consumers/both/acknowledge', { ids })
    }
  }
  pushing = false
  await load
  await send(hub, 'PATCH', 'consumers/both', { push: hook })
  await waitFor(async () => {
    const { lag, pending } = await send<Standing>(hub, 'GET', 'consumers/both')
    return lag === 0 && pending === 0
  })
  const all = [...pulled, ...receiver.requests.flatMap(({ numbers }) => numbers)]
  expect(new Set(all).size).toBe(pushed)
  const { redelivered, deadLetters } = await send<Standing>(hub, 'GET', 'consumers/both')
  expect(deadLetters).toBe(0)
  // Every repetition was counted, and none was more than an acknowledgement that was outstanding.
  expect(all.length - pushed).toBeLessThanOrEqual(redelivered)
  expect(all.length - pushed).toBeLessThanOrEqual(outstanding)
})

allowedTest('a batch that is collected for longer than ackWait holds each reading once', async ({ hub }) => {
  const receiver = await startReceiver(ok)
  const hook = { url: receiver.url, batchWait: '1500ms' }
  const settings = { start: 'latest', ackWait: '300ms', push: hook }
  const { secret } = await send<{ secret: string }>(hub, 'PUT', 'consumers/batch', settings)
  receiver.secrets.push(secret)
  await push(hub, 3, 0, 'batch')
  await waitFor(async () => (await send<Standing>(hub, 'GET', 'consumers/batch')).push?.delivered === 3)
  expect(receiver.requests.map(({ numbers }) => numbers)).toEqual([[0, 1, 2]])
  await waitFor(async () => (await send<Standing>(hub, 'GET', 'consumers/batch')).pending === 0)
  expect(await send(hub, 'GET', 'consumers/batch')).toMatchObject({ redelivered: 0, deadLetters: 0 })
})

test('of several changes at once the last one holds, and a deleted webhook stays deleted', async () => {
  const hub = await startHubProcess({ args: allowed })
  const hanging = await startReceiver(() => {})
  const first = await startReceiver(ok)
  const second = await startReceiver(ok)
  const secret = `whsec_${Buffer.alloc(32, 9).toString('base64')}`
  for (const { secrets } of [hanging, first, second]) secrets.push(secret)
  const hook = (url: string) => ({ push: { url, secret, batchWait: '0' } })
  await send(hub, 'PUT', 'consumers/jobs', { start: 'earliest', ...hook(hanging.url) })
  await push(hub, 5)
  await waitFor(() => hanging.requests.length > 0)
  await Promise.all([
    send(hub, 'PATCH', 'consumers/jobs', hook(first.url)),
    send(hub, 'PATCH', 'consumers/jobs', hook(second.url)),
  ])
  await send(hub, 'PATCH', 'consumers/jobs', { push: null })
  const before = first.requests.length + second.requests.length
  await push(hub, 5, 5)
  const { deliveries } = await send<{ deliveries: unknown[] }>(hub, 'POST', 'consumers/jobs/receive', { wait: '10s' })
  expect(deliveries.length).toBeGreaterThanOrEqual(5)
  expect(first.requests.length + second.requests.length).toBe(before)

  await send(hub, 'PATCH', 'consumers/jobs', hook(hanging.url))
  await send(hub, 'DELETE', 'consumers/jobs')
  await send(hub, 'PUT', 'consumers/jobs', { start: 'earliest', maxDeliver: 9 })
  const held = await send<{ deliveries: { id: string }[] }>(hub, 'POST', 'consumers/jobs/receive')
  await send(hub, 'POST', 'consumers/jobs/acknowledge', { ids: held.deliveries.map(({ id }) => id) })
  await hub.kill('SIGTERM')
  const again = await startHubProcess({ folder: hub.folder, args: allowed })
  const kept = await send(again, 'GET', 'consumers/jobs')
  expect(kept).toMatchObject({ push: null, maxDeliver: 9, pending: 0, lag: 0, acknowledged: 10 })
})
