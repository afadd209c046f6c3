import { readFileSync } from 'node:fs'
import { now } from './clock.ts'

/*
 * What the system says of a process. Only Linux tells it in this form; elsewhere the figures are NaN, which the report
 * shows as not measured.
 */

// USER_HZ, which is 100 on every Linux that Node runs on.
const ticksPerSecond = 100

/** CPU seconds that the processes have used so far, all their threads together. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    // The name in parentheses may hold blanks: count from behind it. proc(5): utime is field 14, stime 15.
    const fields = read(`/proc/${pid}/stat`).split(') ').at(-1)?.split(' ') ?? []
    return sum + (Number(fields[11] ?? Number.NaN) + Number(fields[12] ?? Number.NaN)) / ticksPerSecond
  }, 0)
}

/** Resident memory in bytes. */
export function residentBytes(pid: number): number {
  const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(read(`/proc/${pid}/status`))?.[1]
  return kilobytes === undefined ? Number.NaN : Number(kilobytes) * 1024
}

/** Files and sockets that a process of ours may have open. */
export function maxOpenFiles(): number {
  const soft = /^Max open files\s+(\d+)/m.exec(read('/proc/self/limits'))?.[1]
  return soft === undefined ? 1024 : Number(soft)
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** How many cores do something, over some time: before a measurement, that is what else runs on the machine. */
export async function busyCores(millis: number): Promise<number> {
  const before = busyTicks()
  const begun = now()
  await new Promise((resolve) => setTimeout(resolve, millis))
  return ((busyTicks() - before) / ticksPerSecond / (now() - begun)) * 1000
}

// proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
function busyTicks(): number {
  const [user, nice, system, , , irq, softirq, steal] = (read('/proc/stat').split('\n')[0] ?? '').split(/\s+/).slice(1)
  return [user, nice, system, irq, softirq, steal].reduce((sum, ticks) => sum + Number(ticks), 0)
}
