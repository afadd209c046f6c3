import { connect } from 'node:net'
import { expect, test } from 'vitest'
import WebSocket from 'ws'
import { chooseType } from '../src/http/accept.ts'
import { type HubProcess, readFigures, startHubProcess } from './hub-process.ts'

const t0 = 1_700_000_000_000
const path = '/v1/devices/a/telemetry'

interface Answer {
  status: number
  headers: Record<string, string>
  body: string
}

/** Sends requests as they are written, over one connection, and reads as many answers; all of a known length. */
async function exchange(hub: HubProcess, ...requests: string[]): Promise<Answer[]> {
  const socket = connect(hub.httpPort, '127.0.0.1')
  const gone = new Promise<never>((_, reject) => socket.on('error', reject))
  const answers: Answer[] = []
  let text = ''
  const read = (): Answer | null => {
    const end = text.indexOf('\r\n\r\n')
    if (end < 0) return null
    const [first = '', ...lines] = text.slice(0, end).split('\r\n')
    const pairs = lines.map((line) => [line.split(': ')[0]?.toLowerCase(), line.replace(/^[^:]*: /, '')])
    const headers = Object.fromEntries(pairs) as Record<string, string>
    const whole = end + 4 + Number(headers['content-length'] ?? 0)
    if (text.length < whole) return null
    const answer = { status: Number(first.split(' ')[1]), headers, body: text.slice(end + 4, whole) }
    text = text.slice(whole)
    return answer
  }
  for (const request of requests) {
    socket.write(request)
    for (let answer = read(); ; answer = read()) {
      if (answer) {
        answers.push(answer)
        break
      }
      text += String(await Promise.race([gone, new Promise((resolve) => socket.once('data', resolve))]))
    }
  }
  socket.destroy()
  return answers
}

const host = 'Host: 127.0.0.1'
const ask = (first: string, ...headers: string[]) => `${[first, ...headers].join('\r\n')}\r\n\r\n`

test('an offer of another protocol is passed over: bodies, connections and their count are as without it', async () => {
  const hub = await startHubProcess()
  const offer = ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA']
  const body = `{"ts":${t0},"x":1}`
  const push = ask(`POST ${path} HTTP/1.1`, host, ...offer, `Content-Length: ${body.length}`) + body
  const list = ask('GET /v1/devices HTTP/1.1', host, ...offer)
  const answers = await exchange(hub, push, list, ...Array.from({ length: 20 }, () => push), list)
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
  expect(JSON.parse(answers[0]?.body as string)).toMatchObject({ accepted: 1 })
  expect(JSON.parse(answers[2]?.body as string)).toMatchObject({ duplicates: 1 })
  // What `Connection` does not name is no offer at all.
  const unnamed = ask(`POST ${path} HTTP/1.1`, host, 'Upgrade: websocket', `Content-Length: ${body.length}`) + body
  expect((await exchange(hub, unnamed)).map(({ status }) => status)).toEqual([200])
  expect(answers.at(-1)?.body).toContain('"device":"a"')
  expect((await readFigures(hub)).hub_http_connections).toBe(1)
  const upgrade = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: eA==']
  for (const nowhere of ['/nope', '/healthz', '/v1/devices']) {
    const [answer] = await exchange(hub, ask(`GET ${nowhere} HTTP/1.1`, host, ...upgrade))
    expect(answer).toMatchObject({ status: 404, headers: { 'content-type': 'application/problem+json' } })
  }
})

test('whatever is wrong with a request, the answer is a problem that says what and what else', async () => {
  const hub = await startHubProcess()
  await fetch(hub.http + path, { method: 'POST', body: `{"ts":${t0},"x":1}` })
  const cases: [request: string, status: number, detail: RegExp][] = [
    [ask('GET /v1/devices/%ff/telemetry HTTP/1.1', host), 400, /%ff/],
    [ask('GET /%zz HTTP/1.1', host), 400, /%zz/],
    [ask('GET /healthz HTTP/1.1'), 400, /Host/],
    [ask('GET /v1/feed?devices=a HTTP/1.1', host), 400, /"devices".*after, device, metric/],
    [ask(`GET ${path}?metric=x HTTP/1.1`, host), 400, /"metric".*metrics/],
    [ask('GET /v1/feed?after= HTTP/1.1', host), 400, /"after" is empty/],
    [ask('GET /v1/latest?devices=a&devices=b HTTP/1.1', host), 400, /"devices" is there 2 times.*commas/],
    [ask('POST /v1/telemetry?x=1 HTTP/1.1', host, 'Content-Length: 0'), 400, /takes no parameter "x"/],
    [ask('GET /v1/feed?limit=0 HTTP/1.1', host), 400, /"limit" must be at least 1/],
    [ask('GET /v1/feed?limit=x HTTP/1.1', host), 400, /"limit" must be a whole number/],
    [ask('GET /v1/feed HTTP/1.1', host, 'Accept: image/png'), 406, /text\/event-stream/],
    [ask('PUT /v1/devices HTTP/1.1', host, 'Content-Length: 0'), 405, /GET, HEAD/],
    [ask('GET /v1/telemetry HTTP/1.1', host), 405, /POST/],
    [ask(`POST ${path} HTTP/1.1`, host, 'Content-Encoding: gzip', 'Content-Length: 0'), 415, /gzip/],
    [
      `${ask('POST /v1/session HTTP/1.1', host, 'Content-Type: text/plain', 'Content-Length: 1')}x`,
      415,
      /application\/json/,
    ],
  ]
  for (const [request, status, detail] of cases) {
    const [answer] = await exchange(hub, request)
    const { headers, body } = answer as Answer
    expect([answer?.status, headers['content-type']], request).toEqual([status, 'application/problem+json'])
    expect(headers['x-content-type-options'], request).toBe('nosniff')
    expect(`${JSON.parse(body).detail} ${JSON.parse(body).hint}`, request).toMatch(detail)
    if (status === 405) expect(headers.allow).toMatch(detail)
  }
  const fine = [ask('GET /healthz HTTP/1.1', host, 'Expect: foo'), ask('GET /v1/devices/ HTTP/1.1', host)]
  expect((await exchange(hub, ...fine)).map(({ status }) => status)).toEqual([200, 200])
  const prefers = ['Prefer: respond-async, WAIT="1"', 'Prefer: wait=1; x', 'Prefer: await=1']
  const preferred = await exchange(hub, ...prefers.map((prefer) => ask('GET /v1/feed HTTP/1.1', host, prefer)))
  expect(preferred.map(({ headers }) => headers['preference-applied'])).toEqual(['wait=1', 'wait=1', undefined])
  const asked = await exchange(hub, ask('GET /v1/feed?wait=1 HTTP/1.1', host, 'Prefer: respond-async'))
  expect(asked[0]?.headers['preference-applied']).toBeUndefined()
})

test('what is refused is not kept, what is taken is stored or in the quarantine, byte by byte', async () => {
  const hub = await startHubProcess()
  const push = async (to: string, body: string | Buffer) => {
    const response = await fetch(hub.http + to, { method: 'POST', body })
    return { status: response.status, ...((await response.json()) as { detail?: string; rejected?: object[] }) }
  }
  const broken = Buffer.from([0x22, 0xff, 0xfe, 0x22])
  const line = Buffer.concat([Buffer.from('{"device":"b","x":'), broken, Buffer.from('}')])
  expect(await push(path, Buffer.concat([Buffer.from('{"x":'), broken, Buffer.from('}')]))).toMatchObject({
    status: 400,
    detail: expect.stringMatching(/UTF-8/),
  })
  for (const to of [path, '/v1/telemetry']) {
    const refused = await push(to, `[{"device":"a","ts":1,"x":1},{"device":"a","ts":2,"x":1}]`)
    expect(refused).toMatchObject({ status: 400, rejected: [{ line: 1 }, { line: 2 }] })
    expect(refused.detail).toMatch(/none of the 2 items/)
  }
  expect(await push('/v1/telemetry', '{"device":5,"x":1}')).toMatchObject({ detail: 'the device id must be a text' })
  expect(await hub.get('/v1/quarantine')).toMatchObject({ entries: [] })
  expect(await hub.get('/v1/devices')).toMatchObject({ devices: [] })

  const lines = Buffer.concat([Buffer.from('\ufeff{"device":"b","x":1}\n'), line, Buffer.from('\n')])
  expect(await push('/v1/telemetry', lines)).toMatchObject({ status: 200, accepted: 1, rejected: [{ line: 2 }] })
  expect(await push(path, `\ufeff[{"ts":${t0},"x":1},{"ts":1,"x":2}]`)).toMatchObject({ status: 200, accepted: 1 })
  const { entries } = await hub.get<{ entries: object[] }>('/v1/quarantine')
  expect(entries).toMatchObject([{ payload: '{"ts":1,"x":2}' }, { payloadBase64: line.toString('base64') }])
})

test('a limit makes pages of every format, which say how to go on; names with commas and a metric "ts" are found', async () => {
  const hub = await startHubProcess()
  const readings = Array.from({ length: 30_000 }, (_, i) => ({ ts: t0 + i, values: { ts: i, 'a,b': -i, c: 0 } }))
  for (let from = 0; from < readings.length; from += 10_000) {
    await fetch(hub.http + path, { method: 'POST', body: JSON.stringify(readings.slice(from, from + 10_000)) })
  }
  for (const format of ['csv', 'ndjson', 'columns']) {
    const seen: string[] = []
    let pages = 0
    let next: string | undefined = `${path}?format=${format}&limit=12000&metrics=ts,a%5C%2Cb`
    while (next !== undefined) {
      const response: Response = await fetch(hub.http + next)
      next = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1]
      const text = await response.text()
      if (format === 'columns') {
        const { columns, rows } = JSON.parse(text) as { columns: string[]; rows: number[][] }
        expect(columns).toEqual(['ts', 'values.ts', 'a,b'])
        seen.push(...rows.map((row) => row.join()))
      } else {
        const lines = text.trimEnd().split('\n')
        if (format === 'csv') expect(lines.shift()).toBe('ts,values.ts,"a,b"')
        const inOrder = (line: string) => Object.values(JSON.parse(line).values)
        seen.push(...lines.map((line) => (format === 'csv' ? line : [JSON.parse(line).ts, ...inOrder(line)].join())))
      }
      expect(seen.length).toBeLessThanOrEqual(++pages * 12_000)
    }
    expect(pages).toBe(3)
    expect(seen).toEqual(readings.map(({ ts, values }) => [ts, values.ts, values['a,b']].join()))
  }
  expect(await hub.get(`${path}?from=${t0}&to=${t0}`)).toMatchObject({ readings: [], next: null })
  expect(await hub.get(`${path}?from=${t0}&to=${t0}&interval=1m&fill=null`)).toMatchObject({ buckets: [], next: null })
  const columns = 'application/vnd.telemetry-hub.columns+json'
  const asked = await fetch(`${hub.http}${path}?limit=1`, { headers: { accept: `text/csv;q=0.1, ${columns}` } })
  expect(asked.headers.get('content-type')).toBe(columns)

  const socket = new WebSocket(`${hub.http.replace('http', 'ws')}/v1/feed?metric=a%5C%2Cb&after=earliest&limit=1`)
  const frames: string[] = []
  await new Promise<void>((resolve) => socket.on('message', (frame) => frames.push(String(frame)) === 2 && resolve()))
  socket.terminate()
  expect(JSON.parse(frames[1] as string).readings[0].values).toMatchObject({ 'a,b': 0 })
})

test('of the forms of an answer the one that Accept likes best is chosen', () => {
  const offered = ['application/json', 'text/event-stream', 'application/x-ndjson'] as const
  for (const [accept, chosen] of [
    [undefined, 'application/json'],
    ['', 'application/json'],
    ['*/*', 'application/json'],
    ['text/event-stream', 'text/event-stream'],
    ['TEXT/*', 'text/event-stream'],
    ['application/json, text/event-stream;q=0.1', 'application/json'],
    ['application/json;q=0.1, text/event-stream', 'text/event-stream'],
    ['application/x-ndjson, application/json', 'application/x-ndjson'],
    ['*/*, text/event-stream', 'text/event-stream'],
    ['*/*;q=0.5, application/json;q=0', 'text/event-stream'],
    ['text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8', 'application/json'],
    ['application/json; charset=utf-8; q=0.3, application/x-ndjson ;q=0.4', 'application/x-ndjson'],
  ] as const) {
    expect(chooseType(accept, offered), accept).toBe(chosen)
  }
  for (const accept of ['image/png', 'application/json;q=0, image/*']) {
    expect(() => chooseType(accept, offered)).toThrow(/text\/event-stream/)
  }
})
