/** Files of tensors: the safetensors format. */
package dev.saccade.train.io;
