import { connect } from 'node:net'
import { Validator } from '@seriousme/openapi-schema-validator'
import { connectAsync } from 'mqtt'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type HubProcess, hubTest, readFigures, readWholeHistory, startHubProcess } from './hub-process.ts'

const t0 = 1_700_000_000_000

async function post(hub: HubProcess, path: string, body: string, headers: Record<string, string> = {}) {
  const response = await fetch(hub.http + path, { method: 'POST', body, headers })
  return { status: response.status, body: (await response.json()) as { cursor: string } & Record<string, unknown> }
}

async function problem(hub: HubProcess, path: string, init?: RequestInit) {
  const response = await fetch(hub.http + path, init)
  expect(response.headers.get('content-type')).toBe('application/problem+json')
  const body = (await response.json()) as { type: string; status: number; detail: string; title: string; hint?: string }
  expect(body.status).toBe(response.status)
  expect(body.title).not.toBe('')
  return { status: body.status, code: body.type.replace('urn:telemetry-hub:problem:', ''), detail: body.detail }
}

describe('pushing over HTTP', () => {
  hubTest(
    'one device: all shapes, whatever the client calls its body; duplicates are counted; the cursor is the place after',
    async ({ hub }) => {
      const path = '/v1/devices/shapes/telemetry'
      const first = await post(hub, path, `[{"ts":${t0},"x":1},{"ts":${t0 + 1},"values":{"x":2}}]`, {
        'content-type': 'application/x-www-form-urlencoded',
      })
      expect(first).toMatchObject({ status: 200, body: { accepted: 2, duplicates: 0 } })
      const second = await post(hub, path, `[{"ts":${t0},"x":1},{"ts":${t0 + 2},"x":3}]`)
      expect(second.body).toMatchObject({ accepted: 1, duplicates: 1 })
      const page = await hub.get<{ readings: { values: object }[] }>(`/v1/feed?after=${first.body.cursor}`)
      expect(page.readings.map(({ values }) => values)).toEqual([{ x: 3 }])
      expect(await hub.get(`/v1/feed?after=${second.body.cursor}`)).toMatchObject({ readings: [], caughtUp: true })
    },
  )

  hubTest('one device: what holds nothing good is a 400 that says why', async ({ hub }) => {
    const devices = await hub.get('/v1/devices')
    const refused = (body: string) => problem(hub, '/v1/devices/bad/telemetry', { method: 'POST', body })
    expect(await refused('{"x":')).toMatchObject({
      status: 400,
      code: 'invalid-telemetry',
      detail: expect.stringMatching(/not valid JSON/),
    })
    expect(await refused('{"ts":1732377600,"x":1}')).toMatchObject({
      detail: expect.stringMatching(/seconds, not milliseconds/),
    })
    expect(await refused('')).toMatchObject({ detail: expect.stringMatching(/empty/) })
    expect(await problem(hub, '/v1/devices/bad%2Fb/telemetry', { method: 'POST', body: '{"x":1}' })).toMatchObject({
      code: 'invalid-request',
    })
    expect(await hub.get('/v1/devices')).toEqual(devices)
  })

  for (const [name, body] of [
    ['a JSON array', (items: string[]) => `[${items.join(',')}]`],
    ['NDJSON', (items: string[]) => `${items.join('\n')}\n`],
  ] as const) {
    hubTest(
      `batches as ${name}: the good items are stored, the bad ones come back with their line and are quarantined`,
      async ({ hub }) => {
        const items = [
          `{"device":"a of ${name}","ts":${t0},"x":1}`,
          `{"device":"b of ${name}","ts":${t0 / 1000},"x":2}`,
          '{"x":3}',
          `{"device":"b of ${name}","ts":${t0},"x":4}`,
        ]
        const { status, body: answer } = await post(hub, '/v1/telemetry', body(items))
        expect(status).toBe(200)
        expect(answer).toMatchObject({
          accepted: 2,
          duplicates: 0,
          rejected: [
            { line: 2, reason: expect.stringMatching(/seconds/) },
            { line: 3, reason: expect.stringMatching(/device id is missing/) },
          ],
        })
        const { entries } = await hub.get<{ entries: { origin: string; payload: string }[] }>('/v1/quarantine?limit=2')
        expect(entries.map(({ origin, payload }) => [origin, payload])).toEqual([
          ['POST /v1/telemetry', items[2]],
          ['POST /v1/telemetry', items[1]],
        ])
      },
    )
  }

  hubTest('lines of NDJSON that are no JSON are told by their number, also behind empty lines', async ({ hub }) => {
    const { body } = await post(hub, '/v1/telemetry', '{"device":"l","x":1}\n\n{"device":"l"\n{"device":"l","x":2}\n')
    expect(body).toMatchObject({ accepted: 2, rejected: [{ line: 3 }] })
  })

  hubTest('bodies and batches that are too large are refused with what to do', async ({ hub }) => {
    // Also who is still sending then gets to see the answer.
    for (let mebibytes = 5; mebibytes < 25; mebibytes++) {
      const large = { method: 'POST', body: 'x'.repeat(mebibytes * 1024 * 1024) }
      expect(await problem(hub, '/v1/telemetry', large)).toMatchObject({ status: 413, code: 'too-large' })
    }
    const many = { method: 'POST', body: '{"device":"a","x":1}\n'.repeat(10_001) }
    expect(await problem(hub, '/v1/telemetry', many)).toMatchObject({
      status: 413,
      detail: expect.stringMatching(/10001 items/),
    })
  })
})

describe('pulling history', () => {
  /** The second time it changes nothing. */
  async function fill(hub: HubProcess) {
    const items = Array.from({ length: 250 }, (_, i) => ({
      device: 'h',
      ts: t0 + i * 1000,
      x: i / 2,
      ...(i % 2 === 0 ? { on: i % 4 === 0 } : {}),
      ...(i % 5 === 0 ? { note: `say "${i}", twice` } : {}),
    }))
    await post(hub, '/v1/telemetry', JSON.stringify(items))
  }

  hubTest(
    'pages in both orders, by body and by Link, hold every reading once; limits of time are from-inclusive, to-exclusive',
    async ({ hub }) => {
      await fill(hub)
      for (const order of ['asc', 'desc']) {
        const times: number[] = []
        let url: string | null =
          `/v1/devices/h/telemetry?limit=60&order=${order}&from=${t0 + 10_000}&to=${new Date(t0 + 240_000).toISOString()}`
        while (url) {
          const response: Response = await fetch(hub.http + url)
          const page = (await response.json()) as { readings: { ts: number }[]; next: string | null }
          times.push(...page.readings.map(({ ts }) => ts))
          url = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1] ?? null
          expect(url === null).toBe(page.next === null)
        }
        const expected = Array.from({ length: 230 }, (_, i) => t0 + 10_000 + i * 1000)
        expect(times).toEqual(order === 'asc' ? expected : expected.reverse())
      }
    },
  )

  hubTest('json, columns, csv and ndjson say the same, by parameter and by Accept', async ({ hub }) => {
    await fill(hub)
    const url = `${hub.http}/v1/devices/h/telemetry?metrics=x,note&from=${t0}&to=${t0 + 3000}`
    const text = async (query: string, accept?: string) =>
      (await fetch(url + query, accept ? { headers: { accept } } : {})).text()
    const json = {
      device: 'h',
      readings: [
        { ts: t0, values: { x: 0, note: 'say "0", twice' } },
        { ts: t0 + 1000, values: { x: 0.5 } },
        { ts: t0 + 2000, values: { x: 1 } },
      ],
      next: null,
    }
    expect(JSON.parse(await text(''))).toEqual(json)
    const columns = {
      device: 'h',
      columns: ['ts', 'x', 'note'],
      rows: [
        [t0, 0, 'say "0", twice'],
        [t0 + 1000, 0.5, null],
        [t0 + 2000, 1, null],
      ],
      next: null,
    }
    expect(JSON.parse(await text('&format=columns'))).toEqual(columns)
    const csv = `ts,x,note\n${t0},0,"say ""0"", twice"\n${t0 + 1000},0.5,\n${t0 + 2000},1,\n`
    expect(await text('&format=csv')).toBe(csv)
    expect(await text('', 'text/csv')).toBe(csv)
    const ndjson = `${json.readings.map((reading) => JSON.stringify(reading)).join('\n')}\n`
    expect(await text('&format=ndjson')).toBe(ndjson)
    expect(await text('', 'application/x-ndjson')).toBe(ndjson)
    expect(await problem(hub, '/v1/devices/h/telemetry', { headers: { accept: 'image/png' } })).toMatchObject({
      status: 406,
    })
  })

  hubTest('csv and ndjson have no limit unless asked, and page through more than a step holds', async ({ hub }) => {
    for (let from = 0; from < 45_000; from += 9000) {
      const lines = Array.from({ length: 9000 }, (_, i) => `{"device":"long","ts":${t0 + from + i},"n":${from + i}}`)
      await post(hub, '/v1/telemetry', lines.join('\n'))
    }
    const lines = async (query: string) =>
      (await (await fetch(`${hub.http}/v1/devices/long/telemetry?${query}`)).text()).trimEnd().split('\n')
    const all = await lines('format=csv')
    expect(all).toHaveLength(45_001)
    expect(all.slice(1).every((line, i) => line === `${t0 + i},${i}`)).toBe(true)
    expect((await lines('format=ndjson&order=desc')).map((line) => JSON.parse(line).values.n)).toEqual(
      Array.from({ length: 45_000 }, (_, i) => 44_999 - i),
    )
    expect(await lines('format=csv&limit=21000')).toHaveLength(21_001)
  })

  hubTest('aggregates: interval, functions, fill and time zone', async ({ hub }) => {
    await fill(hub)
    const base = '/v1/devices/h/telemetry?metrics=x&interval=1m'
    const page = await hub.get(`${base}&aggregate=avg,min,max,sum,count,first,last&from=${t0}&limit=2`)
    expect(page).toMatchObject({
      device: 'h',
      interval: '1m',
      buckets: [
        { ts: t0 - (t0 % 60_000), values: { x: { min: 0, first: 0 } } },
        { ts: t0 - (t0 % 60_000) + 60_000, values: { x: { count: 60 } } },
      ],
      next: expect.any(String),
    })
    const day = await hub.get('/v1/devices/h/telemetry?metrics=x&interval=1d&timezone=Europe/Berlin&aggregate=count')
    expect(day).toMatchObject({
      buckets: [{ ts: Date.parse('2023-11-14T00:00:00+01:00'), values: { x: { count: 250 } } }],
    })
    const filled30 = await hub.get<{ buckets: { values: { x: { avg: number | null } } }[] }>(
      `${base}&fill=null&from=${t0 - 120_000}&to=${t0}`,
    )
    expect(filled30.buckets.map(({ values }) => values.x.avg)).toEqual([null, null, null])
    const csv = await (
      await fetch(`${hub.http}${base}&aggregate=count,max&format=csv&from=${t0}&to=${t0 + 1000}`)
    ).text()
    expect(csv).toBe(`ts,x.count,x.max\n${t0 - (t0 % 60_000)},1,0\n`)
  })

  hubTest('questions that make no sense are told what is expected', async ({ hub }) => {
    await fill(hub)
    for (const [query, expected] of [
      ['from=yesterday', /RFC 3339/],
      [`from=${t0}&to=${t0 - 1}`, /after/],
      ['interval=1m&aggregate=avg,', /avg, min/],
      ['order=up', /asc, desc/],
      ['limit=0', /limit/],
      ['limit=100001', /at most 100000/],
      ['cursor=x', /cursor/],
      ['format=xml', /json, columns, csv, ndjson/],
      ['interval=5', /30s, 5m/],
      ['interval=99999999d&timezone=Europe/Berlin', /at most 36500d/],
      ['interval=1m&aggregate=median', /avg, min/],
      ['interval=1m&fill=zero', /none, null/],
      ['interval=1m&timezone=Berlin', /Europe\/Berlin/],
      ['aggregate=avg', /interval/],
    ] as const) {
      const { status, detail } = await problem(hub, `/v1/devices/h/telemetry?${query}`)
      expect(status, query).toBe(400)
      expect(detail, query).toMatch(expected)
    }
    expect(await problem(hub, '/v1/devices/nobody/telemetry')).toMatchObject({ status: 404, code: 'unknown-device' })
  })
})

describe('devices and latest values', () => {
  hubTest('are paged by name, selected by patterns, and carry first and last seen', async ({ hub }) => {
    const names = Array.from({ length: 25 }, (_, i) => `d${String(i).padStart(2, '0')}`)
    const before = Date.now()
    await post(hub, '/v1/telemetry', JSON.stringify(names.map((device) => ({ device, ts: t0, x: 1, 'ü.y': 'on' }))))
    const seen: string[] = []
    let url: string | null = '/v1/devices?limit=10'
    while (url) {
      const response: Response = await fetch(hub.http + url)
      const page = (await response.json()) as {
        devices: { device: string; firstSeen: number; online: boolean; metrics: string[] }[]
      }
      for (const { device, firstSeen, online, metrics } of page.devices) {
        seen.push(device)
        if (!names.includes(device)) continue
        expect(firstSeen).toBeGreaterThanOrEqual(before)
        expect(online).toBe(false)
        expect(metrics).toEqual(['x', 'ü.y'])
      }
      url = /<([^>]+)>/.exec(response.headers.get('link') ?? '')?.[1] ?? null
    }
    expect(seen).toEqual([...new Set([...seen, ...names])].sort())
    expect((await hub.get<{ devices: unknown[] }>('/v1/devices?devices=d0*,d24,nobody')).devices).toHaveLength(11)
    expect(await hub.get('/v1/latest?devices=d03,d07&metrics=x')).toEqual({
      devices: [
        { device: 'd03', values: { x: { ts: t0, value: 1 } } },
        { device: 'd07', values: { x: { ts: t0, value: 1 } } },
      ],
      next: null,
    })
    expect(await problem(hub, '/v1/devices/nobody')).toMatchObject({ code: 'unknown-device' })
    await post(hub, '/v1/devices/a*b/telemetry', '{"x":1}')
    expect(await hub.get('/v1/devices/a*b')).toMatchObject({ device: 'a*b' })
    expect(await post(hub, '/v1/telemetry', '[{"device":"..","x":1}]')).toMatchObject({
      status: 400,
      body: { rejected: [{ line: 1 }] },
    })
  })

  hubTest('latest is the greatest time, not the last arrival, and a matching ETag is answered 304', async ({ hub }) => {
    const path = '/v1/devices/latest/telemetry'
    await post(hub, path, `{"ts":${t0},"x":1}`)
    await post(hub, path, `{"ts":${t0 - 5},"x":0}`)
    const first = await fetch(`${hub.http}${path}/latest`)
    expect(await first.json()).toEqual({ device: 'latest', values: { x: { ts: t0, value: 1 } } })
    const headers = { 'if-none-match': first.headers.get('etag') as string }
    for (const url of [`${path}/latest`]) expect((await fetch(hub.http + url, { headers })).status).toBe(304)
    await post(hub, path, `{"ts":${t0 + 1},"x":2}`)
    expect((await fetch(`${hub.http}${path}/latest`, { headers })).status).toBe(200)
    const many = await fetch(`${hub.http}/v1/latest`)
    await many.text()
    expect(
      (await fetch(`${hub.http}/v1/latest`, { headers: { 'if-none-match': many.headers.get('etag') as string } }))
        .status,
    ).toBe(304)
  })
})

describe('the quarantine', () => {
  hubTest(
    'keeps unreadable payloads, wrong units, values out of limits and unknown topics; they are acknowledged and counted',
    async ({ hub }) => {
      const client = await connectAsync(hub.mqtt)
      onTestFinished(() => client.endAsync(true).then(() => {}))
      const bad: [string, string | Buffer][] = [
        ['devices/a/telemetry', '{"x":'],
        ['devices/a/telemetry', '{"ts":1732377600,"x":1}'],
        ['devices/a/telemetry', `{"x":"${'y'.repeat(5000)}"}`],
        ['devices/a/telemetri', '{"x":1}'],
        ['devices/a/telemetry', Buffer.from([0x7b, 0xff, 0xfe])],
        ['devices/a/telemetry', ''],
      ]
      const rejected = async () => (await readFigures(hub)).hub_rejected_total as number
      const before = await rejected()
      for (const [topic, payload] of bad) await client.publishAsync(topic, payload, { qos: 1 })
      const { entries, next } = await hub.get<{
        entries: {
          id: number
          origin: string
          device: string
          reason: string
          payload?: string
          payloadBase64?: string
        }[]
        next: string
      }>('/v1/quarantine?limit=4')
      expect(entries.map(({ origin, reason }) => [origin, reason])).toMatchObject([
        ['devices/a/telemetry', expect.stringMatching(/empty/)],
        ['devices/a/telemetry', expect.stringMatching(/UTF-8/)],
        ['devices/a/telemetri', expect.stringMatching(/unknown topic/)],
        ['devices/a/telemetry', expect.stringMatching(/longer than 4096/)],
      ])
      expect(entries[1]?.payloadBase64).toBe(Buffer.from([0x7b, 0xff, 0xfe]).toString('base64'))
      expect(entries[2]?.payload).toBe('{"x":1}')
      const rest = await hub.get<{ entries: { payload: string }[] }>(`/v1/quarantine?limit=2&cursor=${next}`)
      expect(rest.entries.map(({ payload }) => payload)).toEqual([bad[1]?.[1], bad[0]?.[1]])
      expect((await rejected()) - before).toBe(6)
    },
  )

  hubTest(
    'what is nested beyond reason, or holds very many bad items, is one entry; and QoS 2 loses nothing of it',
    async ({ hub }) => {
      const client = await connectAsync(hub.mqtt)
      onTestFinished(() => client.endAsync(true).then(() => {}))
      const deep = `{"a":${'['.repeat(20_000)}${']'.repeat(20_000)}}`
      const many = `[{"a":1},${'1,'.repeat(5_000)}1]`
      const tooMany = `[${'1,'.repeat(20_000)}1]`
      for (const payload of [deep, many, tooMany])
        await client.publishAsync('devices/deep/telemetry', payload, { qos: 2 })
      const { entries } = await hub.get<{ entries: { reason: string; payload: string }[] }>('/v1/quarantine?limit=3')
      expect(entries.map(({ payload }) => payload)).toEqual([tooMany, many, deep])
      expect(entries.map(({ reason }) => reason)).toMatchObject([
        expect.stringMatching(/at most 10000 readings/),
        expect.stringMatching(/5001 items cannot be read, the first of them is item 2/),
        // To Node 26 it is a long text.
        expect.stringMatching(
          Number(process.versions.node.split('.')[0]) < 26 ? /nested too deeply/ : /longer than 4096 bytes/,
        ),
      ])
      expect((await readWholeHistory(hub, 'deep')).map(({ values }) => values)).toEqual([{ a: 1 }])
      expect(
        (await post(hub, '/v1/telemetry', `[{"device":"b","a":${'['.repeat(20_000)}${']'.repeat(20_000)}}]`)).status,
      ).toBe(400)
    },
  )

  test('an entry outlives a kill -9, can be fed in again when the rules allow it now, and is deleted then or by hand', async () => {
    const hub = await startHubProcess({ args: ['--earliest-time', '2020-01-01T00:00:00Z'] })
    const client = await connectAsync(hub.mqtt)
    onTestFinished(() => client.endAsync(true).then(() => {}))
    await client.publishAsync('devices/a/telemetry', '{"ts":"2010-01-01T00:00:00Z","x":1}', { qos: 1 })
    await post(hub, '/v1/telemetry', '[{"device":"b","ts":"2010-01-01T00:00:00Z","x":2},{"device":"b","x":3}]')
    await client.publishAsync('devices/a/telemetry', 'never', { qos: 1 })
    expect(await problem(hub, '/v1/quarantine/1/retry', { method: 'POST' })).toMatchObject({
      status: 409,
      code: 'still-unreadable',
    })
    await hub.kill('SIGKILL')
    const later = await startHubProcess({ folder: hub.folder })
    expect((await later.get<{ entries: unknown[] }>('/v1/quarantine')).entries).toHaveLength(3)
    for (const id of [1, 2])
      expect(
        (await post(later, `/v1/quarantine/${id}/retry`, '', { 'content-type': 'application/json' })).body,
      ).toEqual({ accepted: 1, duplicates: 0 })
    expect((await readWholeHistory(later, 'a')).map(({ values }) => values)).toEqual([{ x: 1 }])
    expect((await readWholeHistory(later, 'b')).map(({ values }) => values)).toEqual([{ x: 2 }, { x: 3 }])
    // Many clients name a type also where they send nothing.
    const json = { 'content-type': 'application/json' }
    expect((await fetch(`${later.http}/v1/quarantine/3`, { method: 'DELETE', headers: json })).status).toBe(204)
    expect(await later.get('/v1/quarantine')).toEqual({ entries: [], next: null })
    expect(await problem(later, '/v1/quarantine/3', { method: 'DELETE' })).toMatchObject({ status: 404 })
  })
})

describe('operations', () => {
  hubTest('the OpenAPI document is valid by an independent validator, and names every address', async ({ hub }) => {
    type Content = { content?: object }
    type Operation = { summary?: string; requestBody?: Content; responses: Record<number, Content> }
    const document = await hub.get<{ paths: Record<string, Record<string, Operation>> }>('/openapi.json')
    const result = await new Validator().validate(structuredClone(document))
    expect(result.errors ?? []).toEqual([])
    expect(result.valid).toBe(true)
    expect(Object.keys(document.paths).sort()).toEqual([
      '/healthz',
      '/metrics',
      '/readyz',
      '/v1/audit',
      '/v1/consumers',
      '/v1/consumers/{name}',
      '/v1/consumers/{name}/acknowledge',
      '/v1/consumers/{name}/attempts',
      '/v1/consumers/{name}/dead-letters',
      '/v1/consumers/{name}/dead-letters/redrive',
      '/v1/consumers/{name}/dead-letters/{id}',
      '/v1/consumers/{name}/extend',
      '/v1/consumers/{name}/receive',
      '/v1/consumers/{name}/reject',
      '/v1/consumers/{name}/release',
      '/v1/consumers/{name}/seek',
      '/v1/consumers/{name}/test',
      '/v1/credentials',
      '/v1/credentials/{id}',
      '/v1/devices',
      '/v1/devices/{device}',
      '/v1/devices/{device}/telemetry',
      '/v1/devices/{device}/telemetry/latest',
      '/v1/feed',
      '/v1/latest',
      '/v1/quarantine',
      '/v1/quarantine/{id}',
      '/v1/quarantine/{id}/retry',
      '/v1/session',
      '/v1/telemetry',
    ])
    const types = (content: object | undefined) => Object.keys(content ?? {})
    for (const [path, operations] of Object.entries(document.paths)) {
      for (const [method, { summary, requestBody, responses }] of Object.entries(operations)) {
        expect(summary).toBeTruthy()
        if (!path.startsWith('/v1/')) continue
        expect(types(responses[503]?.content)).toEqual(['application/problem+json'])
        const answer = responses[200] ?? responses[201] ?? responses[204]
        expect(types(answer?.content).length > 0, `${method} ${path}`).toBe(responses[204] === undefined)
        if (path.endsWith('telemetry') && method === 'post')
          expect(types(requestBody?.content)).toContain('application/json')
      }
    }
    const { get, post: push } = document.paths['/v1/devices/{device}/telemetry'] ?? {}
    expect(types(get?.responses[200]?.content)).toContain('text/csv')
    expect(types(get?.responses)).toEqual(expect.arrayContaining(['400', '401', '404', '406']))
    expect(types(push?.responses)).toEqual(expect.arrayContaining(['413', '415']))
    const page = await fetch(`${hub.http}/docs/`)
    expect(page.status).toBe(200)
    // A browser that is not on this machine would ask for the page's files by HTTPS.
    expect(page.headers.get('content-security-policy')).not.toMatch(/upgrade-insecure-requests/)
  })

  hubTest(
    'pages of strangers and names that were made to point here are refused, also for WebSockets',
    async ({ hub }) => {
      // fetch sets Host and Origin by itself, so the request is written by hand.
      const ask = (lines: string[]) =>
        new Promise<string>((resolve, reject) => {
          const socket = connect(hub.httpPort, '127.0.0.1', () => socket.write(`${lines.join('\r\n')}\r\n\r\n`))
          socket.on('error', reject)
          socket.once('data', (data) => {
            resolve(data.toString().split('\r\n')[0] as string)
            socket.destroy()
          })
        })
      const host = `Host: 127.0.0.1:${hub.httpPort}`
      const upgrade = [
        'Connection: Upgrade',
        'Upgrade: websocket',
        'Sec-WebSocket-Version: 13',
        'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      ]
      expect(await ask(['GET /v1/devices HTTP/1.1', host])).toContain('200')
      expect(await ask(['GET /v1/devices HTTP/1.1', host, `Origin: http://127.0.0.1:${hub.httpPort}`])).toContain('200')
      expect(
        await ask(['POST /v1/telemetry HTTP/1.1', host, 'Origin: https://evil.example', 'Content-Length: 0']),
      ).toContain('403')
      expect(await ask(['GET /v1/devices HTTP/1.1', 'Host: evil.example'])).toContain('403')
      expect(await ask(['GET /v1/feed HTTP/1.1', host, ...upgrade])).toContain('101')
      expect(await ask(['GET /v1/feed HTTP/1.1', host, ...upgrade, 'Origin: https://evil.example'])).toContain('403')
      expect(await ask(['GET /mqtt HTTP/1.1', host, ...upgrade, 'Origin: https://evil.example'])).toContain('403')
    },
  )

  hubTest('health, readiness and figures are there; unknown addresses and methods are problems', async ({ hub }) => {
    expect(await hub.get('/healthz')).toMatchObject({ status: 'ok' })
    expect(await hub.get('/readyz')).toMatchObject({ status: 'ready' })
    const { hub_readings_total: before } = await readFigures(hub)
    await post(hub, '/v1/devices/counted/telemetry', '{"x":1}')
    const metrics = await (await fetch(`${hub.http}/metrics`)).text()
    expect(metrics).toMatch(/hub_info\{version="[^"]+",durability="fsync"\} 1/)
    expect((await readFigures(hub)).hub_readings_total).toBe((before as number) + 1)
    expect(await problem(hub, '/v2')).toMatchObject({ status: 404, code: 'not-found' })
    expect(await problem(hub, '/v1/devices', { method: 'DELETE' })).toMatchObject({ status: 405 })
    expect(await problem(hub, '/mqtt')).toMatchObject({ status: 426 })
  })
})
