/** What {@code saccade op} can run: one small class an operation, named after it. */
package dev.saccade.cli.cases;
