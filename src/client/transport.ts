import { readProblem } from './problem.ts'
import { linkSignal, retry, within } from './retry.ts'

export interface ClientOptions {
  /** Of the hub, such as `http://127.0.0.1:8080`; in a page it may be relative. */
  url: string
  /** Sent as `Authorization: Bearer …`. */
  token?: string
  /** Instead of the global one. */
  fetch?: typeof fetch
  /** How long the hub may take to answer before a request is given up and repeated. 15 s unless told. */
  timeoutMillis?: number
  /** How long a request is repeated before its failure is thrown. 60 s unless told. */
  patienceMillis?: number
}

interface JsonRequest {
  method: string
  path: string
  body?: unknown
  signal?: AbortSignal | undefined
  /** The hub is asked to wait before it answers; comes on top of the time that an answer may take. */
  waitMillis?: number
  /** No repetition begins after it. */
  deadline?: () => number
  /** To be sent once only: repeating it would do something twice. */
  once?: boolean
}

/** HTTP as the hub speaks it: one place knows the address, the token and what an answer may look like. */
export interface Transport {
  readonly token: string | undefined
  address(path: string): URL
  /** One attempt. Resolves with a success only; anything else is thrown as a `ProblemError`. */
  open(
    url: URL,
    init: { method?: string; headers?: Record<string, string>; body?: string; signal: AbortSignal },
  ): Promise<Response>
  /** One attempt, whole and in time. */
  getText(url: URL, timeoutMillis: number, signal: AbortSignal | undefined): Promise<string>
  /** Attempts until there is an answer; the type is what the hub promises. */
  request<T>(request: JsonRequest): Promise<T>
}

const defaultTimeoutMillis = 15_000
const defaultPatienceMillis = 60_000

export function createTransport(options: ClientOptions): Transport {
  const { token, timeoutMillis = defaultTimeoutMillis, patienceMillis = defaultPatienceMillis } = options
  // A browser's fetch insists on being called as a function of the window, not as a method of our options.
  const send: typeof fetch = options.fetch ?? ((input, init) => fetch(input, init))
  const page = (globalThis as { location?: { href: string } }).location?.href
  const base = new URL(options.url, page)
  if (!base.pathname.endsWith('/')) base.pathname += '/'

  async function open(...[url, init]: Parameters<Transport['open']>): Promise<Response> {
    const headers = { ...init.headers, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) }
    const response = await send(url, { ...init, headers })
    if (!response.ok) throw await readProblem(response)
    return response
  }

  /** The whole body, or an error when it is not there in time. */
  async function readWhole(
    url: URL,
    init: { method?: string; headers?: Record<string, string>; body?: string },
    millis: number,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const { controller, release } = linkSignal(signal)
    const late = () => controller.abort(new Error(`${url.pathname} has not answered within ${millis} ms`))
    try {
      const read = async () => (await open(url, { ...init, signal: controller.signal })).text()
      return await within(millis, read(), late)
    } finally {
      release()
    }
  }

  async function request<T>({ method, path, body, signal, waitMillis = 0, ...limits }: JsonRequest): Promise<T> {
    const init = {
      method,
      ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
    }
    const end = Date.now() + patienceMillis + waitMillis
    // An answer that was cut half-way is none: it is read within the attempt.
    const attempt = async () => {
      const text = await readWhole(address(path), init, timeoutMillis + waitMillis, signal)
      return (text === '' ? undefined : JSON.parse(text)) as T
    }
    return retry(attempt, { signal, deadline: limits.once ? () => 0 : (limits.deadline ?? (() => end)) })
  }

  function address(path: string): URL {
    return new URL(path, base)
  }

  return {
    token,
    address,
    open,
    getText: (url, millis, signal) => readWhole(url, {}, millis, signal),
    request,
  }
}
