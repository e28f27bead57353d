/** Tensors of PyTorch for the JVM as tensors of Saccade, in place. */
package dev.saccade.pytorch;
