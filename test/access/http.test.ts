import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { connect } from 'mqtt'
import { describe, expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { rights } from '../../src/http/rights.ts'
import { mainFile, run, startHubProcess, temporaryFolder, testSharing, waitFor } from '../hub-process.ts'
import { command, type ProtectedHub, protectedTest, startProtectedHub } from './protected-hub.ts'

const push = (values: object): RequestInit => ({ method: 'POST', body: JSON.stringify(values) })

const send = (hub: ProtectedHub, token: string, method: string, path: string, body: object = {}): Promise<Response> => {
  const init = method === 'GET' ? { method } : { method, body: JSON.stringify(body) }
  return hub.as(token, path, { ...init, headers: { 'content-type': 'application/json' } })
}

type Page = { credentials: { name: string }[]; next: string | null }

const origin = 'https://app.example.com'
/** Its hub lets in pages of one other site, and believes two proxies. */
const openTest = testSharing((onFinished) => {
  const args = ['--cors-origins', origin, '--trusted-proxies', '127.0.0.2,10.0.0.0/8']
  return startProtectedHub({ args }, onFinished)
})

/** A stream of the feed as it comes; `ended` when the hub has closed it. */
async function follow(response: Response) {
  const stream = { text: '', ended: false }
  void (async () => {
    try {
      for await (const chunk of response.body ?? []) stream.text += Buffer.from(chunk).toString()
    } catch {
      // A connection that is cut has ended too.
    }
    stream.ended = true
  })()
  await waitFor(() => stream.text !== '')
  return stream
}

describe('a hub that can be reached from elsewhere', () => {
  test('does not start without credentials, and names the two commands that make it work', async () => {
    const folder = await temporaryFolder()
    const { code, stderr } = await run(mainFile, ['--host', '0.0.0.0', '--data', folder])
    expect(code).toBe(1)
    const [first = '', second = ''] = stderr.split('\n').filter((line) => line.startsWith('  telemetry-hub '))
    const { code: made, stdout: token } = await run(mainFile, first.trim().split(' ').slice(1))
    expect(made).toBe(0)
    const hub = await startHubProcess({ folder, args: second.trim().split(' ').slice(1) })
    const answer = await fetch(`${hub.http}/v1/devices`, { headers: { authorization: `Bearer ${token.trim()}` } })
    expect(answer.status).toBe(200)
  })
})

describe('a hub with credentials', () => {
  protectedTest('answers nobody without a token, at any address but those that are for everybody', async ({ hub }) => {
    const { paths } = await hub.get<{ paths: Record<string, object> }>('/openapi.json')
    const addresses = Object.entries(paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => [method.toUpperCase(), path.replaceAll(/\{(\w+)\}/g, ':$1')] as const),
    )
    expect(addresses.length).toBeGreaterThan(25)
    const other = await hub.create({ kind: 'token', name: 'guessed', roles: ['admin'] })
    for (const [method, path] of addresses) {
      const right = rights[`${method} ${path}`]
      expect(right, `${method} ${path} is not in the table of rights`).toBeDefined()
      if (right?.role === null) continue
      const url = hub.http + path.replaceAll(/:\w+/g, '1')
      const without = await fetch(url, { method })
      expect([without.status, without.headers.get('www-authenticate')], `${method} ${path}`).toEqual([
        401,
        'Bearer realm="telemetry-hub"',
      ])
      const wrong = await fetch(url, { method, headers: { authorization: `Bearer ${other.slice(0, -1)}` } })
      expect([401, 429]).toContain(wrong.status)
    }
    expect((await fetch(`${hub.http}/nothing`, { method: 'POST' })).status).toBe(401)
    const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed`)
    const [, upgrade] = (await once(socket, 'unexpected-response')) as [unknown, IncomingMessage]
    expect(upgrade.statusCode).toBe(401)
    socket.on('error', () => {})
    socket.terminate()
  })

  protectedTest('lets each role do what it is for, and tells what is missing', async ({ hub }) => {
    const reader = await hub.create({ kind: 'token', name: 'r', roles: ['read'] })
    const writer = await hub.create({ kind: 'token', name: 'w', roles: ['write'] })
    expect((await hub.as(writer, '/v1/devices/d/telemetry', push({ t: 1 }))).status).toBe(200)
    expect((await hub.as(reader, '/v1/devices/d/telemetry')).status).toBe(200)
    expect((await hub.as(reader, '/v1/devices/d/telemetry', push({ t: 1 }))).status).toBe(403)
    expect((await hub.as(writer, '/v1/devices/d/telemetry')).status).toBe(403)
    for (const token of [reader, writer]) {
      for (const path of ['/v1/credentials', '/v1/audit', '/v1/quarantine']) {
        const answer = await hub.as(token, path)
        expect(answer.status).toBe(403)
        expect(await answer.json()).toMatchObject({ detail: 'this needs the role admin' })
      }
    }
    for (const path of ['/v1/credentials', '/v1/audit', '/v1/quarantine', '/v1/devices/d/telemetry']) {
      expect((await hub.as(hub.admin, path)).status).toBe(200)
    }
  })

  protectedTest('shows and takes only the devices of a token, by every way in and out', async ({ hub }) => {
    const token = await hub.create({ kind: 'token', name: 'k', roles: ['read', 'write'], devices: ['kit*', 'hall'] })
    const { cursor } = (await (await hub.as(hub.admin, '/v1/feed?after=latest')).json()) as { cursor: string }
    const as = (path: string, init?: RequestInit) => hub.as(token, path, init)
    const items = ['kitchen', 'hall', 'cellar'].map((device) => ({ device, ts: 1_700_000_000_000, t: 1 }))
    expect((await hub.as(hub.admin, '/v1/telemetry', push(items))).status).toBe(200)
    expect((await as('/v1/devices/kitchen')).status).toBe(200)

    const names = async (path: string) =>
      ((await (await as(path)).json()) as { devices: { device: string }[] }).devices.map(({ device }) => device)
    expect(await names('/v1/devices')).toEqual(['hall', 'kitchen'])
    expect(await names('/v1/latest')).toEqual(['hall', 'kitchen'])
    expect(await names('/v1/latest?devices=kit*')).toEqual(['kitchen'])
    const feed = (await (await as(`/v1/feed?after=${cursor}`)).json()) as { readings: { device: string }[] }
    expect(feed.readings.map(({ device }) => device)).toEqual(['kitchen', 'hall'])
    for (const path of [
      '/v1/devices/cellar',
      '/v1/devices/cellar/telemetry',
      '/v1/devices/cellar/telemetry/latest',
      '/v1/latest?devices=*',
      '/v1/devices?devices=c*',
      '/v1/feed?device=kitchen,cellar',
    ]) {
      expect((await as(path)).status, path).toBe(403)
    }
    expect((await as('/v1/devices/cellar/telemetry', push({ t: 2 }))).status).toBe(403)
    const batch = await as(
      '/v1/telemetry',
      push([
        { device: 'kitchen', t: 2 },
        { device: 'cellar', t: 2 },
      ]),
    )
    expect(await batch.json()).toMatchObject({ accepted: 1, rejected: [{ line: 2 }] })
    const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed?after=${cursor}`, {
      headers: { authorization: `Bearer ${token}` },
    })
    onTestFinished(() => socket.terminate())
    const frames: string[] = []
    socket.on('message', (data) => frames.push(String(data)))
    await waitFor(() => frames.some((frame) => frame.includes('kitchen')))
    expect(frames.join()).not.toContain('cellar')
    const all = await hub.create({ kind: 'token', name: 'a', roles: ['read'], devices: ['*', 'kit*'] })
    const everything = (await (await hub.as(all, `/v1/feed?after=${cursor}`)).json()) as {
      readings: { device: string }[]
    }
    expect(everything.readings.map(({ device }) => device)).toContain('cellar')
  })

  protectedTest(
    'lets a reader work with consumers of its devices alone, and only an administrator send readings elsewhere',
    async ({ hub }) => {
      const token = await hub.create({ kind: 'token', name: 'c', roles: ['read'], devices: ['pump*'] })
      const put = (as: string, name: string, body: object) =>
        hub.as(as, `/v1/consumers/${name}`, {
          method: 'PUT',
          body: JSON.stringify(body),
          headers: { 'content-type': 'application/json' },
        })
      expect((await put(hub.admin, 'all', {})).status).toBe(201)
      expect((await put(token, 'own', { filter: { device: 'pump,pump-*' } })).status).toBe(201)
      expect((await put(token, 'more', {})).status).toBe(403)
      expect((await put(token, 'more', { filter: { device: 'p*' } })).status).toBe(403)
      expect((await put(token, 'own', {})).status).toBe(403)
      const push = { url: 'https://example.com/' }
      expect((await put(token, 'own', { filter: { device: 'pump' }, push })).status).toBe(403)
      for (const path of ['', '/receive', '/acknowledge', '/seek', '/dead-letters']) {
        const method = path === '' || path === '/dead-letters' ? 'GET' : 'POST'
        expect((await hub.as(token, `/v1/consumers/all${path}`, { method })).status, path).toBe(403)
      }
      expect((await hub.as(token, '/v1/consumers/all', { method: 'DELETE' })).status).toBe(403)
      const { consumers } = (await (await hub.as(token, '/v1/consumers')).json()) as { consumers: { name: string }[] }
      expect(consumers.map(({ name }) => name)).toEqual(['own'])
      expect((await hub.as(token, '/v1/consumers/own/receive', { method: 'POST' })).status).toBe(200)

      // Who may not name a webhook may not end it, nor skip what it is owed.
      expect((await put(hub.admin, 'hook', { filter: { device: 'pump' }, push })).status).toBe(201)
      const patch = (as: string, name: string, body: object) => send(hub, as, 'PATCH', `/v1/consumers/${name}`, body)
      expect((await patch(token, 'own', { push })).status).toBe(403)
      expect((await patch(token, 'hook', { push: null })).status).toBe(403)
      expect((await send(hub, token, 'POST', '/v1/consumers/hook/seek', { to: 'latest' })).status).toBe(403)
      expect((await hub.as(token, '/v1/consumers/hook', { method: 'DELETE' })).status).toBe(403)
      expect((await hub.as(token, '/v1/consumers/hook')).status).toBe(200)
      expect((await hub.as(token, '/metrics')).status).toBe(403)
    },
  )

  test('hands a reader of a consumer nothing that its filter let through before, or lets through after', async () => {
    const hub = await startProtectedHub()
    const token = await hub.create({ kind: 'token', name: 'k', roles: ['read'], devices: ['kit*'] })
    const call = async (as: string, method: string, path: string, body?: object) => {
      const answer = await send(hub, as, method, `/v1/consumers/c${path}`, body)
      return { status: answer.status, body: (await answer.json()) as { deliveries: { id: string }[] } }
    }
    await call(hub.admin, 'PUT', '', {})
    for (const device of ['cellar', 'kitchen', 'cellar']) {
      expect((await hub.as(hub.admin, `/v1/devices/${device}/telemetry`, push({ t: 1 }))).status).toBe(200)
    }
    const { deliveries } = (await call(hub.admin, 'POST', '/receive')).body
    expect(deliveries.length).toBe(3)
    await call(hub.admin, 'POST', '/reject', { ids: [deliveries[0]?.id] })
    await call(hub.admin, 'PATCH', '', { filter: { device: 'kitchen' } })
    const refused = () =>
      Promise.all([call(token, 'GET', ''), call(token, 'GET', '/dead-letters'), call(token, 'POST', '/receive')])
    for (const { status } of await refused()) expect(status).toBe(403)
    // A restart forgets nothing of it.
    await hub.kill('SIGKILL')
    const again = await startHubProcess({ folder: hub.folder, httpPort: hub.httpPort })
    for (const { status } of await refused()) expect(status).toBe(403)
    await call(hub.admin, 'POST', '/acknowledge', { upTo: deliveries[2]?.id })
    for (const { status } of await refused()) expect(status).toBe(403)
    await call(hub.admin, 'DELETE', '/dead-letters')
    for (const { status } of await refused()) expect(status).toBe(200)

    const waiting = call(token, 'POST', '/receive', { wait: '60s' })
    await waitFor(async () => /hub_http_streams 1/.test(await (await hub.as(hub.admin, '/metrics')).text()))
    await call(hub.admin, 'PATCH', '', { filter: {} })
    expect((await waiting).status).toBe(403)
    expect(again.exitCode()).toBe(null)
  })

  protectedTest.for([
    [
      'over HTTP',
      async (hub: ProtectedHub, id: string) => {
        expect((await hub.as(hub.admin, `/v1/credentials/${id}`, { method: 'DELETE' })).status).toBe(204)
      },
    ],
    [
      'on the command line',
      async (hub: ProtectedHub, id: string) => {
        await hub.command('token', 'revoke', id)
      },
    ],
  ] as const)(
    'a token that is revoked %s ends what it has open, and lets nobody in',
    async ([name, revoke], { hub }) => {
      const token = await hub.create({ kind: 'token', name, roles: ['read'] })
      const id = token.split('_')[1] as string
      expect((await hub.as(token, '/v1/devices')).status).toBe(200)
      const events = await follow(await hub.as(token, '/v1/feed', { headers: { accept: 'text/event-stream' } }))
      const lines = await follow(await hub.as(token, '/v1/feed', { headers: { accept: 'application/x-ndjson' } }))
      const text = 'x'.repeat(4000)
      for (let from = 0; from < 4500; from += 900) {
        const readings = Array.from({ length: 900 }, (_, i) => ({
          device: 'long',
          ts: 1_700_000_000_000 + from + i,
          text,
        }))
        await hub.as(hub.admin, '/v1/telemetry', { method: 'POST', body: JSON.stringify(readings) })
      }
      const poll = hub.as(token, '/v1/feed?wait=60&after=latest')
      const file = await hub.as(token, '/v1/devices/long/telemetry?format=ndjson')
      expect(file.status).toBe(200)
      const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed`, {
        headers: { authorization: `Bearer ${token}` },
      })
      let closed = 0
      socket.on('close', (code) => {
        closed = code
      })
      await new Promise((resolve) => socket.once('message', resolve))
      await revoke(hub, id)
      await waitFor(() => events.ended && lines.ended && closed === 1008)
      expect((await poll).status).toBe(401)
      // A file that is cut off is never taken for a whole one.
      await expect(file.text()).rejects.toThrow()
      expect((await hub.as(token, '/v1/devices')).status).toBe(401)
    },
  )

  protectedTest('a token that expires ends what it has open, over HTTP, WebSocket and MQTT', async ({ hub }) => {
    // A busy machine may need longer than the token lasts: then another one lasts twice as long.
    async function openAll(seconds: number) {
      const secret = await hub.create({ kind: 'token', name: 'short', roles: ['read'], expires: `${seconds}s` })
      const headers = { authorization: `Bearer ${secret}` }
      const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed`, { headers })
      onTestFinished(() => socket.terminate())
      const closed = new Promise<number>((resolve) => socket.once('close', resolve))
      const client = connect(hub.mqtt, { username: secret, reconnectPeriod: 0 })
      client.on('error', () => {})
      onTestFinished(() => client.endAsync(true).then(() => {}))
      const ended = new Promise<void>((resolve) => client.once('close', () => resolve()))
      const opened = new Promise((resolve) => client.once('connect', () => resolve(true)))
      const [events, heard, connected] = await Promise.all([
        hub.as(secret, '/v1/feed', { headers: { accept: 'text/event-stream' } }),
        once(socket, 'message').catch(() => null),
        Promise.race([opened, ended.then(() => false)]),
      ])
      return events.ok && heard && connected ? { secret, events, closed, ended } : null
    }
    let all: Awaited<ReturnType<typeof openAll>> = null
    for (let seconds = 1; all === null; seconds *= 2) all = await openAll(seconds)
    const { secret, events, closed, ended } = all
    const stream = await follow(events)
    await waitFor(() => stream.ended)
    expect(await closed).toBe(1008)
    await ended
    expect((await hub.as(secret, '/v1/devices')).status).toBe(401)
  })

  protectedTest('slows down who guesses, and not those who were let in before', async ({ hub }) => {
    const token = await hub.create({ kind: 'token', name: 'known', roles: ['read'] })
    const figures = async () => {
      const metrics = await (await hub.as(hub.admin, '/metrics')).text()
      return ['failed', 'slowed'].map((name) => Number(metrics.match(`hub_access_${name}_total (\\d+)`)?.[1]))
    }
    const [failedBefore = 0, slowedBefore = 0] = await figures()
    expect((await hub.as(token, '/v1/devices')).status).toBe(200)
    const guess = () => hub.as(`${token.slice(0, -4)}AAAA`, '/v1/devices')
    const slowed = await waitFor(async () => {
      const answer = await guess()
      return answer.status === 429 && answer
    })
    expect(Number(slowed.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await hub.as(token, '/v1/devices')).status).toBe(200)
    const [failedAfter, slowedAfter] = await figures()
    expect(failedAfter).toBeGreaterThan(failedBefore)
    expect(slowedAfter).toBeGreaterThan(slowedBefore)
  })

  test('keeps hashes of secrets and not the secrets, and writes them into no log', async () => {
    const hub = await startProtectedHub({ args: ['--log-level', 'debug'] })
    const made = await hub.as(hub.admin, '/v1/credentials', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ kind: 'device', name: 'd', password: 'correct horse battery' }),
    })
    expect(await made.json()).toMatchObject({ secret: null })
    const page = (await (await hub.as(hub.admin, '/v1/credentials?limit=1')).json()) as Page
    expect(page.credentials[0]).toMatchObject({ name: 'admin', lastUsed: expect.any(Number) })
    const rest = await hub.as(hub.admin, `/v1/credentials?limit=1&cursor=${page.next}`)
    const second = (await rest.json()) as Page
    expect([second.credentials[0]?.name, second.next]).toEqual(['d', null])
    expect(JSON.stringify([page, second])).not.toContain('scrypt')
    await hub.kill('SIGTERM')
    expect(command(hub.folder, 'token', 'list', '--json')).toMatch(/"lastUsed":\d+/)
    for (const name of ['hub.db', 'hub.lock']) expect(statSync(join(hub.folder, name)).mode & 0o777).toBe(0o600)
    const file = readFileSync(join(hub.folder, 'hub.db'))
    for (const secret of [hub.admin.split('_').slice(2).join('_'), 'correct horse battery']) {
      expect(file.includes(secret)).toBe(false)
      expect(hub.output()).not.toContain(secret)
    }
    expect(file.includes('scrypt$16384$8$5$')).toBe(true)
  })

  protectedTest('keeps who did what, by whom and from where', async ({ hub }) => {
    await hub.as(hub.admin, '/v1/consumers/audited', {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    })
    await hub.as(hub.admin, '/v1/consumers/audited/dead-letters', { method: 'DELETE' })
    await hub.as(hub.admin, '/v1/consumers/audited', { method: 'DELETE' })
    await hub.as(
      hub.admin,
      '/v1/telemetry',
      push([
        { device: 'd', t: 1 },
        { device: 'd', ts: 1, t: 1 },
      ]),
    )
    const { entries: quarantine } = (await (await hub.as(hub.admin, '/v1/quarantine')).json()) as {
      entries: { id: number }[]
    }
    await hub.as(hub.admin, `/v1/quarantine/${quarantine[0]?.id}`, { method: 'DELETE' })
    await hub.command('device', 'create', 'audited')
    await hub.command('device', 'revoke', 'audited')
    const { entries } = (await (await hub.as(hub.admin, '/v1/audit?limit=6')).json()) as {
      entries: { action: string; actor: string; subject: string }[]
    }
    expect(entries.map(({ action }) => action)).toEqual([
      'credential.revoke',
      'credential.create',
      'quarantine.delete',
      'consumer.delete',
      'dead-letters.delete',
      'consumer.put',
    ])
    expect(entries[0]?.actor).toContain('on the command line')
    expect(entries[3]).toMatchObject({
      subject: '/v1/consumers/audited',
      actor: expect.stringContaining('(admin), 127.0.0.1'),
    })
    const page = await hub.as(hub.admin, '/v1/audit?limit=2')
    expect(page.headers.get('link')).toContain('rel="next"')
  })

  protectedTest(
    'signs a browser in with a cookie that scripts and other sites cannot use, and out again',
    async ({ hub }) => {
      const json = { 'content-type': 'application/json' }
      const wrong = { method: 'POST', headers: json, body: JSON.stringify({ token: 'nonsense' }) }
      expect((await fetch(`${hub.http}/v1/session`, wrong)).status).toBe(401)
      const right = { ...wrong, body: JSON.stringify({ token: hub.admin }) }
      const answer = await fetch(`${hub.http}/v1/session`, right)
      expect(answer.status).toBe(204)
      const cookie = answer.headers.get('set-cookie') as string
      expect(cookie).toMatch(/HttpOnly; SameSite=Strict/)
      const headers = { cookie: cookie.split(';')[0] as string }
      expect((await fetch(`${hub.http}/v1/devices`, { headers })).status).toBe(200)
      for (const shown of [headers, { authorization: `Bearer ${hub.admin}` }]) {
        const session = await fetch(`${hub.http}/v1/session`, { headers: shown })
        expect(await session.json()).toMatchObject({ open: false, roles: ['admin'] })
      }
      const foreign = await fetch(`${hub.http}/v1/devices`, { headers: { ...headers, origin: 'http://evil.example' } })
      expect(foreign.status).toBe(403)
      const out = await fetch(`${hub.http}/v1/session`, { method: 'DELETE', headers })
      expect(out.headers.get('set-cookie')).toContain('Max-Age=0')
    },
  )
})

test('the first credential ends what came in while nobody needed one', async () => {
  const hub = await startHubProcess()
  const events = await follow(await fetch(`${hub.http}/v1/feed`, { headers: { accept: 'text/event-stream' } }))
  expect(await hub.get('/v1/session')).toMatchObject({ open: true })
  command(hub.folder, 'token', 'create', '--name', 'admin', '--role', 'admin')
  await waitFor(() => events.ended)
  expect((await fetch(`${hub.http}/v1/devices`)).status).toBe(401)
})

describe('what browsers are told', () => {
  protectedTest(
    'every answer says that it is data, or a page that runs nothing but files of the hub',
    async ({ hub }) => {
      for (const [path, policy] of [
        ['/v1/devices', /default-src 'none'/],
        ['/v1/devices/nothing', /default-src 'none'/],
        ['/nothing', /default-src 'none'/],
        ['/', /default-src 'self'/],
        ['/app.js', /default-src 'self'/],
        ['/docs', /default-src 'self'/],
      ] as const) {
        const { headers } = await hub.as(hub.admin, path)
        expect([path, headers.get('content-security-policy')]).toEqual([path, expect.stringMatching(policy)])
        expect(headers.get('content-security-policy')).not.toContain('unsafe-eval')
        expect(headers.get('x-content-type-options')).toBe('nosniff')
        expect(headers.get('referrer-policy')).toBe('no-referrer')
      }
      expect(await (await fetch(hub.http)).text()).not.toMatch(/<script>|onclick=|style="/)
    },
  )

  protectedTest('pages of others may not use the API', async ({ hub }) => {
    const refused = await hub.as(hub.admin, '/v1/devices', { headers: { origin } })
    expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([403, null])
  })

  openTest('pages of others may use the API where the hub is told so, and never with its cookie', async ({ hub }) => {
    const allowed = await hub.as(hub.admin, '/v1/devices', { headers: { origin } })
    expect([allowed.status, allowed.headers.get('access-control-allow-origin')]).toEqual([200, origin])
    expect(allowed.headers.get('access-control-allow-credentials')).toBe(null)
    const preflight = await fetch(`${hub.http}/v1/devices`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'GET', 'access-control-request-headers': 'authorization' },
    })
    // Ports of a host are one site to a browser, so that it sends the cookie.
    const headers = { origin, cookie: `hub_session=${hub.admin}` }
    expect((await fetch(`${hub.http}/v1/devices`, { headers })).status).toBe(401)
    expect((await fetch(`${hub.http}/v1/session`, { headers })).status).toBe(401)
    const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed`, { headers })
    await expect(once(socket, 'open')).rejects.toThrow('401')
    expect([preflight.status, preflight.headers.get('access-control-allow-headers')]).toEqual([204, 'authorization'])
    const other = await hub.as(hub.admin, '/v1/devices', { headers: { origin: 'https://evil.example.com' } })
    expect(other.status).toBe(403)
  })
})

openTest(
  'behind a proxy that is trusted, addresses and origins are those of the browser, and nobody else is believed',
  async ({ hub }) => {
    const headers = {
      host: 'hub:8080',
      origin: 'https://hub.example.com',
      'x-forwarded-proto': 'https',
      'x-forwarded-host': 'hub.example.com',
      'x-forwarded-for': '192.0.2.1, 10.1.2.3',
    }
    const send = (localAddress: string, path: string, more: Record<string, string>, body: object | null) =>
      new Promise<IncomingMessage>((resolve, reject) => {
        const method = body ? 'POST' : 'GET'
        const options = { port: hub.httpPort, path, method, localAddress, headers: { ...headers, ...more } }
        request(options, (response) => resolve(response.resume()))
          .on('error', reject)
          .end(body && JSON.stringify(body))
      })
    const json = { 'content-type': 'application/json' }
    const signedIn = await send('127.0.0.2', '/v1/session', json, { token: hub.admin })
    expect(signedIn.statusCode).toBe(204)
    expect(signedIn.headers['strict-transport-security']).toMatch('max-age=')
    const [cookie = ''] = signedIn.headers['set-cookie'] as string[]
    expect(cookie).toMatch(/; Secure$/)
    const given = { kind: 'token', name: 't', roles: ['read'] }
    const signed = { ...json, cookie: cookie.split(';')[0] as string }
    expect((await send('127.0.0.2', '/v1/credentials', signed, given)).statusCode).toBe(201)
    const { entries } = (await (await hub.as(hub.admin, '/v1/audit?limit=1')).json()) as {
      entries: { actor: string }[]
    }
    expect(entries[0]?.actor).toMatch(/, 192\.0\.2\.1$/)
    for (const address of ['127.0.0.1', '127.0.0.3']) {
      expect((await send(address, '/v1/devices', signed, null)).statusCode).toBe(403)
    }
  },
)

protectedTest('a credential that makes no sense is refused with what is expected', async ({ hub }) => {
  const device = { kind: 'device', name: 'a' } as const
  const token = { kind: 'token', name: 'x' } as const
  for (const [given, said] of [
    [token, /a token needs roles: some of admin, read, write/],
    [{ ...token, roles: ['owner'] }, /"owner" is no role/],
    [{ ...token, roles: ['read'], expires: 'soon' }, /expected a duration/],
    [{ ...device, name: 'a/b' }, /device/],
    [{ ...device, roles: ['read'] }, /a device has no roles/],
    [{ ...device, name: '*' }, /must not hold "\*"/],
    [{ ...device, publish: ['#/status'] }, /"#" can only be the last level/],
  ] as const) {
    const answer = await send(hub, hub.admin, 'POST', '/v1/credentials', given)
    expect([answer.status, await answer.json()]).toEqual([
      400,
      expect.objectContaining({ detail: expect.stringMatching(said) }),
    ])
  }
  for (const [args, said] of [
    [['token', 'create', '--name', 'x', '--role', 'owner'], /"owner" is no role/],
    [['device', 'create', 'a', '--publish', '#/status'], /"#" can only be the last level/],
    [['token', 'revoke', 'nobody'], /there is no token "nobody"/],
    [['token', 'destroy'], /takes create, list or revoke/],
  ] as const) {
    const { code, stderr } = await run(mainFile, [...args, '--data', hub.folder])
    expect([code, stderr]).toEqual([1, expect.stringMatching(said)])
  }
})
