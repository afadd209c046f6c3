import { type Logger, pino } from 'pino'

/** Characters of the log that wait for a reader who has stalled; what is more is left out. */
const maxWaiting = 1024 * 1024

/** The log: JSON lines for machines, coloured lines when a person is at the terminal. */
export async function createLog(level: string): Promise<Logger> {
  if (!process.stdout.isTTY) return pino({ level, base: null }, lines)
  const { default: pretty } = await import('pino-pretty')
  return pino({ level, base: null }, pretty({ translateTime: 'HH:MM:ss', ignore: 'hostname,pid', sync: true }))
}

/**
 * By the console, which takes a reader that has gone for no error, and never waits for one that has stalled. The
 * destination of pino waits at the end of the process, for ever if its reader has gone.
 */
const lines = {
  write(line: string): void {
    if (process.stdout.writableLength < maxWaiting) console.log(line.trimEnd())
  },
}
