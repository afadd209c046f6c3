import { parentPort, workerData } from 'node:worker_threads'
import { now } from './clock.ts'

export interface PacerOptions {
  startAt: number
  tickMillis: number
}

/*
 * Rings at every tick. Timers of the event loop know whole milliseconds only and may be one late; a thread that sleeps
 * on nothing else is exact to some tens of microseconds, and the loop that it wakes still reads its sockets at once.
 */
function pace({ startAt, tickMillis }: PacerOptions): never {
  const never = new Int32Array(new SharedArrayBuffer(4))
  for (let tick = 0; ; tick++) {
    const pause = startAt + tick * tickMillis - now()
    if (pause > 0) Atomics.wait(never, 0, 0, pause)
    parentPort?.postMessage(0)
  }
}

if (parentPort) pace(workerData as PacerOptions)
