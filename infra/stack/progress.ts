/** How the start shows itself: a live list on a terminal, else a line for each step. On standard error: the output is others'. */
import { type ListrBaseClassOptions, ListrLogger, ProcessOutput } from 'listr2'

export type Progress = 'show' | 'silent'
type Options = ListrBaseClassOptions<object, 'default' | 'silent', 'silent'>

export const progressOptions = (progress: Progress): Options => {
  const common = { concurrent: true, exitOnError: false } as const
  if (progress === 'silent' || !process.stderr.isTTY) return { ...common, renderer: 'silent' }
  const logger = new ListrLogger({ useIcons: true, processOutput: new ProcessOutput(process.stderr, process.stderr) })
  return { ...common, renderer: 'default', rendererOptions: { logger, collapseErrors: false, showErrorMessage: false } }
}

/** One line, where the live list is not shown. */
export function plainLine(progress: Progress, line: string): void {
  if (progress === 'show' && !process.stderr.isTTY) process.stderr.write(`${line}\n`)
}
