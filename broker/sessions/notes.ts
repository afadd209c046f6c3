import type { AedesPublishPacket } from 'aedes'
import type { Note, Sink } from '../../devices/sink.ts'

/*
 * What the broker must know again after a restart, as pairs of a key and a value. Memory is what counts while it runs;
 * the disk follows in the next commit.
 */

/** Kinds of notes, by the first letter of the key: session, its filters, queued, message, retained, will. */
type Kind = 's' | 'f' | 'q' | 'm' | 'r' | 'w'

export interface Notes {
  put(kind: Kind, name: string, value: Uint8Array): void
  drop(kind: Kind, name: string): void
  /** What `task` notes goes into the list, to be committed together with something else. */
  into(list: Note[], task: () => void): void
  /** What `task` notes, which is much, is handed on at once. */
  together(task: () => void): void
  /** Resolves when everything noted so far is on disk. */
  kept(): Promise<void>
}

export function createNotes(sink: Sink): Notes {
  let list: Note[] | null = null

  function write(note: Note): void {
    if (list) list.push(note)
    else sink.note([note], ignore)
  }

  function into(given: Note[], task: () => void): void {
    list = given
    try {
      task()
    } finally {
      list = null
    }
  }

  return {
    put: (kind, name, value) => write([kind + name, value]),
    drop: (kind, name) => write([kind + name, null]),
    into,
    together(task) {
      const given: Note[] = []
      into(given, task)
      if (given.length > 0) sink.note(given, ignore)
    },
    kept: () =>
      new Promise((resolve, reject) => {
        sink.note([], (failure) => (failure === null ? resolve() : reject(new Error(failure))))
      }),
  }
}

function ignore(): void {}

/** The notes of a former run, by kind, each as its name and its value. */
export function sortNotes(notes: Iterable<readonly [key: string, value: Uint8Array]>) {
  const kinds: Record<Kind, [name: string, value: Uint8Array][]> = { s: [], f: [], q: [], m: [], r: [], w: [] }
  for (const [key, value] of notes) kinds[key[0] as Kind]?.push([key.slice(1), value])
  return kinds
}

type Message = Pick<AedesPublishPacket, 'topic' | 'payload' | 'qos' | 'retain'>

/**
 * A message as a note: its head as JSON, and in that what `more` there is to say of it, a zero, its payload. It shares
 * no memory with what the socket brought.
 */
export function encodeMessage({ topic, payload, qos, retain }: Message, more: object = {}): Uint8Array {
  const head = Buffer.from(JSON.stringify({ topic, qos, retain, ...more }))
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload
  const value = new Uint8Array(head.length + 1 + body.length)
  value.set(head)
  value.set(body, head.length + 1)
  return value
}

/** The twin of `encodeMessage`. Throws when the value is none. */
export function decodeMessage(value: Uint8Array): AedesPublishPacket {
  const end = value.indexOf(0)
  const { topic, qos, retain } = decodeHead(value) as Message
  if (end < 0 || typeof topic !== 'string') throw new Error('this is no message')
  const payload = Buffer.from(value.subarray(end + 1))
  return { cmd: 'publish', brokerId: 'restored', brokerCounter: 0, topic, payload, qos, retain, dup: false }
}

/** What a message says before its payload. */
export function decodeHead(value: Uint8Array): unknown {
  return JSON.parse(Buffer.from(value.subarray(0, value.indexOf(0))).toString())
}

export function encodeJson(content: unknown): Uint8Array {
  return new Uint8Array(Buffer.from(JSON.stringify(content)))
}

export function decodeJson<T>(value: Uint8Array): T {
  return JSON.parse(Buffer.from(value).toString()) as T
}
