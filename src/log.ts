import { type Logger, pino } from 'pino'

/** The log: JSON lines for machines, coloured lines when a person is at the terminal. */
export async function createLog(level: string): Promise<Logger> {
  if (!process.stdout.isTTY) return pino({ level, base: null })
  const { default: pretty } = await import('pino-pretty')
  return pino({ level, base: null }, pretty({ translateTime: 'HH:MM:ss', ignore: 'hostname,pid', sync: true }))
}
