import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { onTestFinished } from 'vitest'

interface Work {
  n: number
  attempt: number
  state: 'ready' | 'leased' | 'acknowledged' | 'rejected'
  id: string
  leaseEndsAt: number
}

interface Call {
  action: string
  body: { ids?: string[]; delay?: string; reason?: string; max?: number; wait?: string }
}

/** Answers instead of the contract: `true` when it has. */
type Trouble = (action: string, call: number, response: ServerResponse) => boolean

/** A consumer as the contract says, kept in memory, with a way to make trouble. */
export async function startContractServer(count: number, ackWaitMillis: number, trouble: Trouble = () => false) {
  const works = Array.from(
    { length: count },
    (_, i): Work => ({
      n: i + 1,
      attempt: 0,
      state: 'ready',
      id: '',
      leaseEndsAt: 0,
    }),
  )
  const calls: Call[] = []
  const byId = new Map<string, Work>()

  /** What of these is still leased under that very id. */
  const leased = (ids: string[] = []) =>
    ids.map((id) => byId.get(id) as Work).filter((work, i) => work.id === ids[i] && work.state === 'leased')

  const actions: Record<string, (body: Call['body']) => unknown> = {
    acknowledge({ ids }) {
      for (const work of leased(ids)) work.state = 'acknowledged'
    },
    release({ ids }) {
      for (const work of leased(ids)) work.state = 'ready'
    },
    reject({ ids }) {
      for (const work of leased(ids)) work.state = 'rejected'
    },
    extend({ ids }) {
      for (const work of leased(ids)) work.leaseEndsAt = Date.now() + ackWaitMillis
    },
    receive({ max = 100 }) {
      const now = Date.now()
      const free = works.filter(
        ({ state, leaseEndsAt }) => state === 'ready' || (state === 'leased' && leaseEndsAt < now),
      )
      const deliveries = free.slice(0, max).map((work) => {
        work.attempt++
        work.id = `${work.n}-${work.attempt}`
        work.state = 'leased'
        work.leaseEndsAt = now + ackWaitMillis
        byId.set(work.id, work)
        return {
          id: work.id,
          attempt: work.attempt,
          reading: { device: 'd', ts: work.n, values: { n: work.n }, received: 0 },
        }
      })
      return { deliveries, lag: 0 }
    },
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = ''
    for await (const chunk of request) text += chunk
    const action = request.url?.split('/')[4] ?? (request.method as string)
    const body = text === '' ? {} : (JSON.parse(text) as Call['body'])
    calls.push({ action, body })
    if (trouble(action, calls.filter((call) => call.action === action).length, response)) return
    const state = { name: 'c', ackWait: `${ackWaitMillis}ms`, lag: 0, pending: 0, redelivered: 0 }
    response.end(JSON.stringify(actions[action]?.(body) ?? state))
  }

  const server = createServer((request, response) => void answer(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    works,
    calls,
    all: (state: Work['state']) => works.every((work) => work.state === state),
  }
}

export function refuse(response: ServerResponse, status: number, headers: Record<string, string> = {}): true {
  response.writeHead(status, { 'content-type': 'application/problem+json', ...headers })
  response.end(JSON.stringify({ type: 'urn:test', title: 'Refused', status, detail: 'on purpose' }))
  return true
}
