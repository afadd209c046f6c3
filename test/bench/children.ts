import { type ChildProcess, fork, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'

/*
 * Everything that is measured, and everything that measures, is a process of its own: none shares an event loop with
 * another. They are ended by their id, and all of them when the benchmark ends.
 */

const alive = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL')
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))

const graceMillis = 15_000

export function startProcess(command: string, args: string[], options: SpawnOptions): ChildProcess {
  return tracked(spawn(command, args, options))
}

/** Asks the process to end, and ends it when it does not. */
export async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMillis)
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  await exited
  clearTimeout(timer)
}

/** A module of the benchmark as a process: it gets its options as JSON and answers with messages. */
export interface Helper {
  pid: number
  /** The next message of the kind; rejects when the process ends without it. */
  receive<T>(kind: string): Promise<T>
  send(message: object): void
  stop(): Promise<void>
}

interface Message {
  kind: string
}

export function startHelper(module: string, options: object): Helper {
  const path = new URL(`./${module}.js`, import.meta.url)
  const child = tracked(
    fork(path, [JSON.stringify(options)], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      // JSON would make null of a NaN.
      serialization: 'advanced',
    }),
  )
  const received: Message[] = []
  let ended = false
  let wake = (): void => {}
  child.on('message', (message) => {
    received.push(message as Message)
    wake()
  })
  child.on('exit', () => {
    ended = true
    wake()
  })
  return {
    pid: child.pid as number,
    async receive<T>(kind: string): Promise<T> {
      for (;;) {
        const place = received.findIndex((message) => message.kind === kind)
        if (place >= 0) return received.splice(place, 1)[0] as T
        if (ended) throw new Error(`the process of ${module} has ended before "${kind}"`)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    },
    send: (message) => void child.send(message),
    stop: () => stopProcess(child),
  }
}

/** The other end of `startHelper`: the options given. */
export function helperOptions<T>(): T {
  return JSON.parse(process.argv[2] as string) as T
}

/** The other end of `startHelper`: resolves when the message has left, so that the process may end. */
export function answer(message: object): Promise<void> {
  return new Promise((resolve) => process.send?.(message, undefined, {}, () => resolve()))
}

function tracked(child: ChildProcess): ChildProcess {
  alive.add(child)
  child.on('exit', () => alive.delete(child))
  return child
}
