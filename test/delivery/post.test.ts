import { once } from 'node:events'
import { createServer as createSecureServer } from 'node:https'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { Webhook } from 'standardwebhooks'
import { Webhook as SvixWebhook } from 'svix'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createAddressGuard } from '../../src/delivery/addresses.ts'
import { type Attempt, createPoster, type PosterOptions, readRetryAfter } from '../../src/delivery/post.ts'
import { createSigner, makeSecret } from '../../src/delivery/signature.ts'
import { makeCertificate } from './certificate.ts'
import { type Received, startReceiver, statuses, until } from './receiver.ts'

const local = createAddressGuard(['127.0.0.1'])
const body = Buffer.from('{"type":"readings","data":{"text":"Zürich ☀"}}')
const never = new AbortController().signal

function open(url: string, options: Partial<PosterOptions> = {}) {
  const given = { url, secrets: [makeSecret()], timeoutMillis: 20_000, guard: local, version: '1.2.3' }
  const poster = createPoster({ ...given, ...options })
  onTestFinished(() => poster.close())
  return {
    send: (signal: AbortSignal = never): Promise<Attempt> => poster.post({ id: 'batch_1', body }, signal),
  }
}

/** A server that says what it likes; `talk` gets each connection with its first bytes. */
async function startTalker(talk: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('data', () => talk(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

describe('signatures', () => {
  test('are what the libraries of Standard Webhooks and Svix expect', async () => {
    const secret = makeSecret()
    const receiver = await startReceiver()
    expect(await open(receiver.url, { secrets: [secret] }).send()).toMatchObject({ status: 200, error: null })
    const { headers, body: text, method } = receiver.received[0] as Received
    expect(method).toBe('POST')
    expect(headers).toMatchObject({
      'webhook-id': 'batch_1',
      'content-type': 'application/json',
      'content-length': String(body.length),
      'user-agent': 'telemetry-hub/1.2.3',
    })
    for (const library of [new Webhook(secret), new SvixWebhook(secret)]) {
      expect(library.verify(text, headers as Record<string, string>)).toEqual(JSON.parse(body.toString()))
      expect(() => library.verify(`${text} `, headers as Record<string, string>)).toThrow()
    }
    expect(() => new Webhook(makeSecret()).verify(text, headers as Record<string, string>)).toThrow()
  })

  test('while a secret is replaced, receivers with the old one and with the new one are content', async () => {
    const secrets = [makeSecret(), makeSecret()]
    const receiver = await startReceiver()
    await open(receiver.url, { secrets }).send()
    const { headers, body: text } = receiver.received[0] as Received
    expect(headers['webhook-signature']).toMatch(/^v1,\S{44} v1,\S{44}$/)
    for (const secret of secrets) {
      for (const library of [new Webhook(secret), new SvixWebhook(secret)]) {
        expect(library.verify(text, headers as Record<string, string>)).toBeTruthy()
      }
    }
  })

  test('are those of the example in the specification', () => {
    const sign = createSigner(['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'])
    const example = Buffer.from('{"test": 2432232314}')
    expect(sign('msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330_999, example)).toEqual({
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    })
  })

  test('an id that would make the signed text ambiguous is a bug', () => {
    const sign = createSigner([makeSecret()])
    for (const id of ['a.b', '', 'a b', 'ä', 'a\n']) expect(() => sign(id, 0, body), id).toThrow('BUG')
  })
})

describe('an attempt', () => {
  test.each([200, 201, 204, 299])('that is answered %d is a success, and the connection is kept', async (status) => {
    const receiver = await startReceiver(statuses(status))
    const { send } = open(receiver.url)
    for (let n = 0; n < 3; n++) expect(await send()).toMatchObject({ status, error: null, retryAfterMillis: null })
    expect(receiver.connections).toBe(1)
  })

  test('whose answer is whole when the receiver hangs up is a success', async () => {
    const text = `HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 9000\r\n\r\n${'x'.repeat(9000)}`
    const url = await startTalker((socket) => socket.end(text))
    const { send } = open(url)
    for (let n = 0; n < 20; n++) expect(await send()).toMatchObject({ status: 200, error: null })
  })

  test.each([400, 404, 410, 429, 500, 503])(
    'that is answered %d has failed, and says what it was told',
    async (status) => {
      const receiver = await startReceiver((response) => {
        response.statusCode = status
        response.end('no\n\tthank you')
      })
      expect(await open(receiver.url).send()).toMatchObject({ status, error: `answered ${status}: no thank you` })
    },
  )

  test('follows no redirect', async () => {
    const secret = await startReceiver()
    const receiver = await startReceiver((response) => {
      response.writeHead(301, { location: secret.url })
      response.end()
    })
    const attempt = await open(receiver.url, { guard: createAddressGuard(['127.0.0.1']) }).send()
    expect(attempt.status).toBe(301)
    expect(attempt.error).toBe(
      `answered 301 to ${secret.url}: redirects are not followed, give the address that they lead to`,
    )
    expect(secret.received).toEqual([])
  })

  test('at a receiver that never answers ends in time', async () => {
    const receiver = await startReceiver(() => {})
    const attempt = await open(receiver.url, { timeoutMillis: 40 }).send()
    expect(attempt).toMatchObject({ status: null, error: 'there was no whole answer within 40 ms' })
  })

  test('at a receiver that answers byte by byte ends in time, though no byte is late', async () => {
    const url = await startTalker((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n')
      const timer = setInterval(() => socket.write('x'), 5)
      socket.on('close', () => clearInterval(timer))
    })
    const attempt = await open(url, { timeoutMillis: 150 }).send()
    expect(attempt.error).toBe('there was no whole answer within 150 ms')
  })

  test('at a receiver that sends its header byte by byte ends in time', async () => {
    const url = await startTalker((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nx: ')
      const timer = setInterval(() => socket.write('x'), 5)
      socket.on('close', () => clearInterval(timer))
    })
    expect(await open(url, { timeoutMillis: 60 }).send()).toMatchObject({ status: null, error: /within 60 ms/ })
  })

  test('reads no more of an answer than it needs', async () => {
    const url = await startTalker((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n')
      const chunk = `${(8192).toString(16)}\r\n${'x'.repeat(8192)}\r\n`
      const pour = (): void => {
        while (!socket.destroyed && socket.write(chunk));
      }
      socket.on('drain', pour)
      pour()
    })
    expect(await open(url).send()).toMatchObject({ status: 200, error: null })
  })

  test.each([
    ['with half a body', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf', 200, 'answered 200, but broke off'],
    ['with half a header', 'HTTP/1.1 200 OK\r\ncontent-le', null, /hang up|ECONNRESET|Parse Error/],
    ['with nothing', '', null, /hang up|ECONNRESET/],
    ['with what is no HTTP', 'SSH-2.0-OpenSSH_9.9\r\n', null, /Parse Error/],
    ['by another protocol', 'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n', null, /./],
  ])('that the receiver ends %s has failed', async (_what, text, status, error) => {
    const url = await startTalker((socket) => socket.end(text))
    const attempt = await open(url).send()
    expect(attempt.status).toBe(status)
    expect(attempt.error).toMatch(error)
  })

  test('where nobody listens has failed', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    server.close()
    await once(server, 'close')
    expect((await open(`http://127.0.0.1:${port}/`).send()).error).toContain('ECONNREFUSED')
  })

  test('at an address that is refused never connects: as a literal, and by a name', async () => {
    const receiver = await startReceiver()
    const { port } = new URL(receiver.url)
    const guard = createAddressGuard([])
    for (const host of ['127.0.0.1', '2130706433', '0x7f.1', '[::ffff:7f00:1]', 'localhost']) {
      const attempt = await open(`http://${host}:${port}/`, { guard }).send()
      expect(attempt.status, host).toBeNull()
      expect(attempt.error, host).toContain('the hub sends nothing there')
    }
    const rebound = createAddressGuard([], (_name, _options, done) => done(null, [{ address: '127.0.0.1', family: 4 }]))
    const attempt = await open(`http://receiver.example:${port}/`, { guard: rebound }).send()
    expect(attempt.error).toContain('receiver.example is 127.0.0.1, which is loopback')
    expect(receiver.connections).toBe(0)
  })

  test('by a name that is allowed goes where it leads', async () => {
    const receiver = await startReceiver()
    const guard = createAddressGuard(['receiver.example'], (_name, _options, done) => {
      done(null, [{ address: '127.0.0.1', family: 4 }])
    })
    const url = `http://receiver.example:${new URL(receiver.url).port}/`
    expect(await open(url, { guard }).send()).toMatchObject({ status: 200, error: null })
    expect(receiver.received[0]?.headers.host).toBe(new URL(url).host)
  })

  test('whose look-up never ends, ends in time', async () => {
    const guard = createAddressGuard([], () => {})
    const attempt = await open('http://receiver.example/', { guard, timeoutMillis: 30 }).send()
    expect(attempt.error).toBe('there was no whole answer within 30 ms')
  })

  test('ends at once with its signal, and none begins after it', async () => {
    const receiver = await startReceiver(() => {})
    const { send } = open(receiver.url)
    const controller = new AbortController()
    const attempt = send(controller.signal)
    await until(() => receiver.received.length === 1)
    controller.abort()
    expect(await attempt).toMatchObject({ status: null, error: 'the hub stopped the attempt' })
    expect(await send(controller.signal)).toMatchObject({ error: 'the hub stopped the attempt' })
    expect(receiver.received).toHaveLength(1)
  })

  test('on connections that the receiver has closed meanwhile is made on a new one', async () => {
    // Says that it keeps the connection, and hangs up on its second request.
    let connections = 0
    const url = await startTalker((socket) => {
      connections++
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n')
      socket.on('data', () => socket.resetAndDestroy())
    })
    const { send } = open(url)
    for (const attempt of await Promise.all([send(), send(), send()])) expect(attempt.error).toBeNull()
    expect(await send()).toMatchObject({ status: 200, error: null })
    expect(connections).toBeGreaterThan(1)
  })

  test('over TLS goes to who can show a certificate that is trusted, and to nobody else', async () => {
    const certificate = makeCertificate()
    let requests = 0
    const server = createSecureServer(certificate, (_request, response) => {
      requests++
      response.end()
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/`
    expect((await open(url).send()).error).toMatch(/self-signed certificate/)
    expect(requests).toBe(0)
    expect(await open(url, { ca: certificate.cert }).send()).toMatchObject({ status: 200, error: null })
  })
})

test('Retry-After is understood in seconds and as a date, up to an hour', async () => {
  const now = Date.UTC(2026, 0, 31, 12)
  expect(readRetryAfter('120', now)).toBe(120_000)
  expect(readRetryAfter('Sat, 31 Jan 2026 12:01:30 GMT', now)).toBe(90_000)
  expect(readRetryAfter('999999999', now)).toBe(3_600_000)
  for (const text of [undefined, '0', '-5', 'soon', '', 'Sat, 31 Jan 2026 11:00:00 GMT']) {
    expect(readRetryAfter(text, now), text).toBeNull()
  }
  const receiver = await startReceiver((response) => {
    response.writeHead(429, { 'retry-after': '7' })
    response.end()
  })
  expect(await open(receiver.url).send()).toMatchObject({ status: 429, retryAfterMillis: 7000 })
})
