// A CUDA runtime and driver with one GPU that holds nothing and computes nothing.
//
// Loaded before torch (LD_PRELOAD), it makes torch's own CUDA code run on a machine without a GPU: devices, streams, the threads of the
// autograd engine. Tensors are torch's fake ones, which have a shape and no memory, so no kernel is ever started. What would need memory
// on the GPU fails here.
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101 };
static const size_t MEMORY = (size_t)80 << 30;

// The beginning of cudaDeviceProp, which is the same in CUDA 11, 12 and 13 up to here. The caller has zeroed the rest.
struct Properties {
    char name[256], uuid[16], luid[8];
    unsigned int luid_mask;
    size_t memory, shared_memory;
    int registers, warp_size;
    size_t memory_pitch;
    int threads, thread_sizes[3], grid_sizes[3], clock_rate;
    size_t constant_memory;
    int major, minor;
    size_t texture_alignment, texture_pitch_alignment;
    int device_overlap, processors;
};

Status cudaGetDeviceCount(int *count) { *count = 1; return SUCCESS; }
Status cudaGetDevice(int *device) { *device = 0; return SUCCESS; }
Status cudaSetDevice(int device) { return device == 0 ? SUCCESS : INVALID_DEVICE; }
Status cudaDriverGetVersion(int *version) { *version = 13020; return SUCCESS; }
Status cudaGetLastError(void) { return SUCCESS; }
Status cudaPeekAtLastError(void) { return SUCCESS; }
Status cudaDeviceSynchronize(void) { return SUCCESS; }
Status cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return SUCCESS; }
Status cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return SUCCESS; }
Status cudaStreamSynchronize(void *stream) { return SUCCESS; }
Status cudaThreadExchangeStreamCaptureMode(int *mode) { return SUCCESS; }
Status cudaEventCreateWithFlags(void **event, unsigned int flags) { static int made; *event = &made; return SUCCESS; }
Status cudaEventRecord(void *event, void *stream) { return SUCCESS; }
Status cudaEventRecordWithFlags(void *event, void *stream, unsigned int flags) { return SUCCESS; }
Status cudaEventQuery(void *event) { return SUCCESS; }
Status cudaEventSynchronize(void *event) { return SUCCESS; }
Status cudaEventDestroy(void *event) { return SUCCESS; }
Status cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = MEMORY; return SUCCESS; }
Status cudaMalloc(void **pointer, size_t size) { return OUT_OF_MEMORY; }

Status cudaGetDeviceProperties(struct Properties *properties, int device) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "no GPU");
    properties->memory = MEMORY;
    properties->warp_size = 32;
    const char *capability = getenv("FAKE_GPU_CAPABILITY");
    properties->major = capability ? atoi(capability) : 9;
    properties->processors = 132;
    return SUCCESS;
}
Status cudaGetDeviceProperties_v2(struct Properties *properties, int device) { return cudaGetDeviceProperties(properties, device); }

// Of the driver torch asks only whether a device is in use by this process; the other names are there so that its library can be loaded.
Status cuDevicePrimaryCtxGetState(int device, unsigned int *flags, int *active) { *flags = 0; *active = 0; return SUCCESS; }
#define UNUSED(name) Status name(void) { return OUT_OF_MEMORY; }
UNUSED(cuCtxGetCurrent) UNUSED(cuCtxSetCurrent) UNUSED(cuDeviceGet) UNUSED(cuDeviceGetAttribute) UNUSED(cuDevicePrimaryCtxRetain)
UNUSED(cuFuncGetAttribute) UNUSED(cuFuncSetAttribute) UNUSED(cuFuncSetCacheConfig) UNUSED(cuGetErrorString)
UNUSED(cuLaunchCooperativeKernel) UNUSED(cuLaunchKernel) UNUSED(cuLinkAddData_v2) UNUSED(cuLinkComplete) UNUSED(cuLinkCreate_v2)
UNUSED(cuModuleGetFunction) UNUSED(cuModuleLoad) UNUSED(cuModuleLoadData) UNUSED(cuModuleLoadDataEx) UNUSED(cuModuleUnload)
UNUSED(cuOccupancyMaxActiveBlocksPerMultiprocessor) UNUSED(cuPointerGetAttribute) UNUSED(cuTensorMapEncodeTiled)
