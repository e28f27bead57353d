/** Arrays of DJL with the PyTorch engine as tensors of Saccade, in place. */
package dev.saccade.djl;
